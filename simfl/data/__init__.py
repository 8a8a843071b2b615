"""Data: sources, partitions, and the data set of a federation.

Importing this package registers the built-in sources and partitions.
"""

from simfl.data.augment import Augmentation, Crop, Cutout, Draws, Flip, Noise
from simfl.data.build import build_dataset
from simfl.data.dataset import (
    Array,
    ArrayTree,
    Examples,
    FederatedDataset,
    Scaling,
    num_rows,
    take_rows,
)
from simfl.data.describe import DatasetSummary, LabelSummary, label_counts, summarize
from simfl.data.flwr_partition import FlwrPartition
from simfl.data.partition import Partition, SizedPartition
from simfl.data.partitions import IID, Dirichlet, Natural, Quantity, Shards, Similar
from simfl.data.ragged import Ragged, Vocabulary
from simfl.data.source import Source, SourceData
from simfl.data.sources import (
    CIFAR10,
    CIFAR100,
    FEMNIST,
    MNIST,
    CsvFile,
    Digits,
    HuggingFace,
    ImageFolder,
    Leaf,
    NpyFolder,
    NpzFile,
    ParquetFile,
    PythonFunction,
    ScikitLearn,
    Shakespeare,
    Synthetic,
    Text,
)

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "FEMNIST",
    "IID",
    "MNIST",
    "Array",
    "ArrayTree",
    "Augmentation",
    "Crop",
    "CsvFile",
    "Cutout",
    "DatasetSummary",
    "Digits",
    "Dirichlet",
    "Draws",
    "Examples",
    "FederatedDataset",
    "Flip",
    "FlwrPartition",
    "HuggingFace",
    "ImageFolder",
    "LabelSummary",
    "Leaf",
    "Natural",
    "Noise",
    "NpyFolder",
    "NpzFile",
    "ParquetFile",
    "Partition",
    "PythonFunction",
    "Quantity",
    "Ragged",
    "Scaling",
    "ScikitLearn",
    "Shakespeare",
    "Shards",
    "Similar",
    "SizedPartition",
    "Source",
    "SourceData",
    "Synthetic",
    "Text",
    "Vocabulary",
    "build_dataset",
    "label_counts",
    "num_rows",
    "summarize",
    "take_rows",
]
