"""How the contributions of two parts of a cohort become one."""

from __future__ import annotations

from simfl.aggregation.aggregator import Aggregator
from simfl.messages import Contribution
from simfl.optimizer import Optimizer


def merge_contributions(
    left: Contribution, right: Contribution, *, aggregator: Aggregator, optimizer: Optimizer
) -> Contribution:
    """Merge two contributions, in the order of the tree; may reuse the left one's memory.

    Args:
        left: of the lower cohort positions.
        right: of the higher ones.
        aggregator: merges the deltas.
        optimizer: of the clients; its modules say how their auxiliary variables merge.
    """
    return Contribution(
        total=aggregator.merge(left.total, right.total),
        weight=left.weight + right.weight,
        aux=optimizer.merge_aux(left.aux, right.aux),
        sums={name: left.sums[name] + right.sums[name] for name in left.sums},
    )
