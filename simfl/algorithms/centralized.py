"""Centralized training, the upper baseline: one machine has the examples of all clients.

Client: nothing. Send: nothing. Server: train w on the clients' training examples, all together,
with the clients' Optimizer and for their epochs or steps, on batches of ``client.batch_size``.

So a scenario becomes its own baseline by this one key: the same examples, test split and held-out
examples. Schedules by round go on; what the Optimizer's modules keep begins anew in each round. A
single client that holds everything (``data.partition: {kind: iid, clients: 1}``) keeps it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simfl.algorithms.algorithm import Algorithm, Local, ServerSide, State, Total, Update
from simfl.vector import Vector


@dataclass(frozen=True)
class Centralized(Algorithm):
    """Train on the examples of all clients, in one place."""

    name: ClassVar[str] = "centralized"
    weighted_by: ClassVar[str] = "examples"
    sends_delta: ClassVar[bool] = False
    needs_public: ClassVar[bool] = True
    pools_clients: ClassVar[bool] = True

    def client(self, local: Local) -> tuple[Update, State]:
        """Do nothing."""
        return Update(), {}

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Train."""
        assert here.public is not None, "pools_clients"
        return here.public.train_delta(here.public.weights), state
