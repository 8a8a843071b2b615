"""The sources that come with simfl; importing this registers them."""

from simfl.data.sources.array_files import Digits, NpyFolder, NpzFile
from simfl.data.sources.csv_file import CsvFile
from simfl.data.sources.huggingface import HuggingFace
from simfl.data.sources.image_folder import ImageFolder
from simfl.data.sources.leaf import Leaf
from simfl.data.sources.named import CIFAR10, CIFAR100, FEMNIST, MNIST, Shakespeare
from simfl.data.sources.parquet_file import ParquetFile
from simfl.data.sources.python_function import PythonFunction
from simfl.data.sources.scikit_learn import ScikitLearn
from simfl.data.sources.synthetic import Synthetic
from simfl.data.sources.text import Text

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "FEMNIST",
    "MNIST",
    "CsvFile",
    "Digits",
    "HuggingFace",
    "ImageFolder",
    "Leaf",
    "NpyFolder",
    "NpzFile",
    "ParquetFile",
    "PythonFunction",
    "ScikitLearn",
    "Shakespeare",
    "Synthetic",
    "Text",
]
