"""How a cohort's deltas become one: the reduction tree, the mean, and robust rules."""

from importlib import import_module
from typing import Any

from simfl.aggregation.aggregator import (
    AggregationContext,
    Aggregator,
    EveryUpdate,
    Separate,
    merge_contributions,
)
from simfl.aggregation.mixing import Bucketing, NearestNeighborMixing, PreAggregator, mix_before
from simfl.aggregation.robust import CenteredClipping, GeometricMedian
from simfl.aggregation.rules import Krum, Mean, Median, TrimmedMean
from simfl.aggregation.tree import CohortSum, TreeSum

__all__ = [
    "AggregationContext",
    "Aggregator",
    "Bucketing",
    "CenteredClipping",
    "CohortSum",
    "EveryUpdate",
    "GeometricMedian",
    "Krum",
    "Mean",
    "Median",
    "NearestNeighborMixing",
    "PreAggregator",
    "Separate",
    "TreeSum",
    "TrimmedMean",
    "check_aggregator",
    "merge_contributions",
    "mix_before",
]


def check_aggregator(aggregator: Aggregator, **options: Any) -> None:
    """Check that an aggregator keeps its contract: ``simfl.testing.check_aggregator``."""
    import_module("simfl.testing").check_aggregator(aggregator, **options)
