"""What clients send of their deltas, once they have gone through ``client.transforms``.

Shapes: C clients of a stack; one without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simfl.client.local import LocalRound
from simfl.client.updates import ClientRow, count_sent_bytes
from simfl.states import State
from simfl.transforms import UpdateContext, UpdateTransform, send_update
from simfl.vector import Vector


@dataclass(frozen=True)
class SentDelta:
    """What clients send of their deltas, and what transforms keep."""

    delta: Vector | None
    """As the server decodes it; None: no weights are sent."""
    states: list[tuple[State, ...]]
    """[C] what each client's transforms keep."""
    num_bytes: list[int]
    """[C] the size of what each client sends."""
    made: Vector | None
    """The delta before the transforms."""
    transforms: tuple[UpdateTransform, ...] = ()

    def lost_by(self, client: int) -> str:
        """Return the names of the transforms, if they have made a finite delta infinite or NaN.

        Args:
            client: the row of a stack; 0 without one.
        """
        if not (self.transforms and self.made and self.delta):
            return ""
        before, after = (one.is_finite().reshape(-1)[client] for one in (self.made, self.delta))
        return ", ".join(one.name for one in self.transforms) if before and not after else ""


def send_delta(
    local: LocalRound,
    delta: Vector | None,
    weights: Sequence[float],
    rows: Sequence[ClientRow],
) -> SentDelta:
    """Apply the scenario's transforms to the trainable part of deltas; buffers stay as they are.

    Args:
        local: the clients' round.
        delta: theirs, which is not modified.
        weights: [C] of the deltas.
        rows: [C] of the clients.
    """
    transforms = local.recipe.work.transforms
    kept: list[tuple[State, ...]] = [()] * len(rows)
    if transforms:
        kept = [() if state is None else state.transforms for state in local.states]
    trained = [n for n in local.trainable if n in delta] if transforms and delta else []
    if delta is None or not trained:
        num_bytes = count_sent_bytes([delta], num_clients=len(rows))
        return SentDelta(delta, kept, [num_bytes] * len(rows), delta)
    context = UpdateContext(
        seed=local.seed,
        clients=tuple(row.client for row in rows),
        round=local.round,
        num_examples=tuple(row.num_examples for row in rows),
        weights=tuple(weights),
    )
    sent = send_update(transforms, delta.select(trained), kept, context)
    buffers = delta.without(sent.update.names)
    rest = count_sent_bytes([buffers], num_clients=len(rows))
    num_bytes_C = [own + rest for own in sent.num_bytes]
    return SentDelta(delta | sent.update, sent.states, num_bytes_C, delta, transforms)
