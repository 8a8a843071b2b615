"""The partitions that come with simfl; importing this registers them."""

from simfl.data.partitions.dirichlet import Dirichlet, Quantity
from simfl.data.partitions.flwr import FlwrPartition
from simfl.data.partitions.iid import IID
from simfl.data.partitions.natural import Natural
from simfl.data.partitions.shards import Shards

__all__ = ["IID", "Dirichlet", "FlwrPartition", "Natural", "Quantity", "Shards"]
