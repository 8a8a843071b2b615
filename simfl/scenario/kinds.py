"""Everything that a scenario can name, by kind."""

from __future__ import annotations

from simfl.aggregation import Aggregator
from simfl.component import Component
from simfl.data import Partition, Source
from simfl.models import Loss, Metric, ModelSpec
from simfl.observers import Observer
from simfl.optimizer import OptiModule, Regularizer, Schedule
from simfl.sampling import Sampler

_ROOTS: tuple[type[Component], ...] = (
    Source,
    Partition,
    ModelSpec,
    Loss,
    Metric,
    OptiModule,
    Regularizer,
    Schedule,
    Aggregator,
    Sampler,
    Observer,
)


def component_kinds() -> dict[str, type[Component]]:
    """Return ``{"source": Source, "partition": Partition, ...}`` in the order of a scenario."""
    return {root.registry.what: root for root in _ROOTS}
