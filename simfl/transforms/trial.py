"""A transform, tried out on three clients and a few rounds of small updates.

``stack_fault`` tells before a run whether a transform can be stacked; ``simfl.testing`` checks the
whole contract on the same clients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from simfl.optimizer.trial import (
    CLIENTS,
    SHAPES,
    Clients,
    Shapes,
    draw_normal,
    fault_of,
    require_near,
)
from simfl.states import State
from simfl.transforms.sending import Sent, send_update, shapes_of
from simfl.transforms.transform import UpdateContext, UpdateTransform
from simfl.vector import Vector

ROUNDS: Final = (1, 2, 3)


@dataclass(frozen=True)
class Subject:
    """A transform, and how to take updates through it. Several clients are a stack."""

    transform: UpdateTransform
    shapes: Shapes = field(default_factory=lambda: SHAPES)
    """Names and shapes of the updates."""

    def update(self, clients: Clients, round: int) -> Vector:
        """Make the update of a client, or of a stack of several."""
        rows = [draw_normal(self.shapes, 1000 * client + round) for client in clients]
        return Vector.stack(rows) if len(rows) > 1 else rows[0]

    def context(self, clients: Clients, round: int) -> UpdateContext:
        """Return where the round takes place."""
        shapes = shapes_of(self.update(clients[:1], round))
        examples = tuple(10 + client for client in clients)
        return UpdateContext(
            seed=7,
            clients=clients,
            round=round,
            num_examples=examples,
            weights=tuple(map(float, examples)),
            shapes=shapes,
        )

    def send(self, clients: Clients, round: int, kept: Sequence[tuple[State, ...]] = ()) -> Sent:
        """Take a round's updates through the transform; () of a client that is new."""
        update, context = self.update(clients, round), self.context(clients, round)
        return send_update([self.transform], update, kept or [()] * len(clients), context)

    def rounds(self, clients: Clients, new: Clients = ()) -> list[Sent]:
        """Return what clients send in some rounds; some of them forget their state after one."""
        sent: list[Sent] = []
        kept: list[tuple[State, ...]] = [()] * len(clients)
        for round in ROUNDS:
            sent.append(self.send(clients, round, kept))
            pairs = zip(clients, sent[-1].states, strict=True)
            kept = [() if client in new and len(sent) == 1 else own for client, own in pairs]
        return sent


def stack_fault(transform: UpdateTransform, shapes: Shapes = SHAPES) -> str | None:
    """Return how a transform treats a stack of clients unlike each of them; None if it does not."""
    return fault_of(check_stack, Subject(transform, shapes))


def check_stack(subject: Subject) -> None:
    """Require that a stack sends and keeps what its clients do, new and returning ones."""
    for new, who in (((), ""), (CLIENTS[1:2], " of new and returning clients")):
        stacks = subject.rounds(CLIENTS, new)
        for row, client in enumerate(CLIENTS):
            singles = subject.rounds((client,), new)
            for alone, together in zip(singles, stacks, strict=True):
                expected, found = _of_row(alone, 0), _of_row(together, row)
                require_near(expected, found, f"row {row} of a stack{who}:")


def _of_row(sent: Sent, row: int) -> dict[str, Any]:
    """Return what one client sends and keeps."""
    update = sent.update.unstack()[row] if sent.update.stacked else sent.update
    return {"update": update, "kept": list(sent.states[row]), "num_bytes": sent.num_bytes[row]}
