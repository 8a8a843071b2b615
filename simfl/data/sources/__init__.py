"""The sources that come with simfl; importing this registers them."""

from simfl.data.sources.array_files import Digits, NpzFile
from simfl.data.sources.csv_file import CsvFile
from simfl.data.sources.huggingface import HuggingFace
from simfl.data.sources.parquet_file import ParquetFile
from simfl.data.sources.python_function import PythonFunction
from simfl.data.sources.synthetic import Synthetic
from simfl.data.sources.text import Text

__all__ = [
    "CsvFile",
    "Digits",
    "HuggingFace",
    "NpzFile",
    "ParquetFile",
    "PythonFunction",
    "Synthetic",
    "Text",
]
