"""The results of clients' steps: losses, counts, bytes, and whether an update is finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from simfl.messages import ClientReports, Contribution
from simfl.models.metric_sums import add_up
from simfl.models.model import MetricSums
from simfl.states import Dropped, KeptState, Nothing, Retained
from simfl.vector import Keyed, Vector, is_finite


class StepLosses(NamedTuple):
    """The losses of one client's steps."""

    num_steps: int = 0
    num_seen: int = 0
    """Examples over all steps; one counts as often as it was trained on."""
    total: float = 0.0
    """The sum over those of the loss before the step."""
    first: float = math.nan
    """The mean loss of the first step's batch."""
    last: float = math.nan
    """The mean loss of the last step's batch."""

    @property
    def mean(self) -> float:
        """The mean loss, by examples; 0 where there was no step."""
        return self.total / max(self.num_seen, 1)


class ClientRow(NamedTuple):
    """One client's row of ``ClientReports``, and the outcome for its state."""

    client: int
    num_examples: int
    losses: StepLosses = StepLosses()
    delta_norm: float = math.nan
    seconds: float = 0.0
    retained: Retained[KeptState] = Nothing()


@dataclass(frozen=True)
class Outcome:
    """The results of training some clients, in the order of the cohort."""

    contribution: Contribution | None
    """What they add to the round, merged; None: nothing."""
    rows: list[ClientRow]


class SpareMemory:
    """The memory of a delta that has been added to another, for the next one.

    Fresh memory of a large model's size costs several times what a pass over it does: the system
    has to clear each page.
    """

    def __init__(self) -> None:
        self._vector: Vector | None = None
        self._is_wanted = False

    def give(self, vector: Vector) -> None:
        """Store memory that is no longer used, if any has ever been asked for."""
        self._vector = vector if self._is_wanted else None

    def take(self) -> Vector | None:
        """Return what was stored last, unless it was taken."""
        self._is_wanted = True
        vector, self._vector = self._vector, None
        return vector


def join_outcomes(
    outcomes: Sequence[Outcome], merge: Callable[[Contribution, Contribution], Contribution]
) -> Outcome:
    """Make one of several, merging what they contribute in their order."""
    contributions = [one.contribution for one in outcomes if one.contribution is not None]
    return Outcome(
        reduce(merge, contributions) if contributions else None,
        [row for one in outcomes for row in one.rows],
    )


def count_sent_bytes(values: Iterable[object], *, num_clients: int = 1) -> int:
    """Return the size of the Vectors and arrays that a client sends, or each client of a stack.

    Single numbers are not counted.
    """
    return sum(_sent_bytes(value, num_clients) for value in values)


def _sent_bytes(value: object, num_clients: int) -> int:
    value = value.values if isinstance(value, Keyed) else value
    if isinstance(value, Vector):
        return value.num_bytes // num_clients if value.stacked else value.num_bytes
    if not isinstance(value, Tensor) or value.numel() <= num_clients:
        return 0
    return value.nbytes // num_clients


def aux_values(aux: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """Return the auxiliary variables without their names."""
    return [value for entries in aux.values() for value in entries.values()]


def count_sums(
    rows: Sequence[ClientRow], *, delta_bytes: int, aux_bytes: int, dense_bytes: int | None = None
) -> dict[str, float]:
    """Return the counts and sums of clients that contribute, and have sent so many bytes.

    Args:
        rows: of the clients.
        delta_bytes: of their deltas, as they are sent.
        aux_bytes: of their auxiliary variables.
        dense_bytes: of their deltas without a codec; None: as many as they have sent.
    """
    return {
        "clients": len(rows),
        "examples": sum(row.num_examples for row in rows),
        "steps": sum(row.losses.num_steps for row in rows),
        "seen": sum(row.losses.num_seen for row in rows),
        "loss": sum(row.losses.total for row in rows),
        "bytes": delta_bytes + aux_bytes,
        "dense_bytes": (delta_bytes if dense_bytes is None else dense_bytes) + aux_bytes,
        "aux_bytes": aux_bytes,
    }


def to_columns(rows: Sequence[ClientRow]) -> ClientReports:
    """Turn the rows of K clients into columns."""

    def column(values: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.array(values, dtype=np.float64)

    return ClientReports(
        client=np.array([row.client for row in rows], dtype=np.int64),
        num_examples=np.array([row.num_examples for row in rows], dtype=np.int64),
        num_steps=np.array([row.losses.num_steps for row in rows], dtype=np.int64),
        train_loss=column([row.losses.mean for row in rows]),
        first_loss=column([row.losses.first for row in rows]),
        last_loss=column([row.losses.last for row in rows]),
        delta_norm=column([row.delta_norm for row in rows]),
        seconds=column([row.seconds for row in rows]),
        dropped={
            row.client: row.retained.reason for row in rows if isinstance(row.retained, Dropped)
        },
    )


def finite_rows(
    delta: Vector | None, norms: Sequence[float], values: Sequence[Any], *, stacked: bool
) -> list[bool]:
    """Return for each client whether what it sends has no NaN or infinity.

    Args:
        delta: the update of a stack of C clients, or of one; None: no weights are sent.
        norms: [C] its L2 norms: finite only if all numbers are. The exception, numbers too large to
            be squared, is checked number by number.
        values: what else they send, likewise of all clients.
        stacked: whether they are those of a stack.
    """
    if not values and all(map(math.isfinite, norms)):
        return [True] * len(norms)
    rows = np.isfinite(norms)
    if not rows.all() and delta is not None:
        rows = delta.is_finite().cpu().numpy().reshape(-1)
    for value in values:
        finite = is_finite(value).cpu().numpy()
        rows = rows & (finite if stacked else finite.all())
    finite_C: list[bool] = rows.tolist()
    return finite_C


def sum_losses(losses: Sequence[Tensor], sizes: Sequence[int]) -> StepLosses:
    """Add up the mean losses of a client's batches, each times its batch's size."""
    if not losses:
        return StepLosses()
    means = torch.stack(list(losses)).tolist()  # one transfer for all steps
    # As float64, since it is the sum of many.
    sums = [mean * size for mean, size in zip(means, sizes, strict=True)]
    return StepLosses(
        num_steps=len(sizes),
        num_seen=sum(sizes),
        total=torch.tensor(sums, dtype=torch.float64).sum().item(),
        first=means[0],
        last=means[-1],
    )


def add_metric_sums(parts: Sequence[MetricSums]) -> MetricSums:
    """Add up metric sums, in order."""
    names = parts[0] if parts else ()
    return {name: add_up([part[name] for part in parts]) for name in names}
