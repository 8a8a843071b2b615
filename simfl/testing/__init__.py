"""Contract suites for components of your own; simfl's own pass the same ones."""

from simfl.errors import ContractError
from simfl.testing.aggregators import check_aggregator
from simfl.testing.algorithms import check_algorithm
from simfl.testing.plugins import check_plugin
from simfl.testing.transforms import check_transform

__all__ = [
    "ContractError",
    "check_aggregator",
    "check_algorithm",
    "check_plugin",
    "check_transform",
]
