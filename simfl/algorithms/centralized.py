"""Centralized training, the upper baseline: one machine has the examples of all clients.

Client: nothing. Send: nothing (``work: client``), or its number of steps (``work: cohort``).
Server: train w on the clients' training examples, all together, with the clients' Optimizer, on
batches of ``client.batch_size``: for the epochs or steps of a client, or for the sum of the steps.

So a scenario becomes its own baseline by this one key: the same examples, test split and held-out
examples. Schedules by round go on; what the Optimizer's modules keep begins anew in each round. A
single client that holds everything (``data.partition: {kind: iid, clients: 1}``) keeps it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

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

    work: Literal["client", "cohort"] = "client"
    """How long the server trains in a round. client: for ``client.epochs`` of all examples, or
    ``client.steps``. cohort: as many steps as the round's clients would have taken, added up."""

    def client(self, local: Local) -> tuple[Update, State]:
        """Do nothing; count the steps."""
        return Update(sums={"steps": local.num_steps} if self.work == "cohort" else {}), {}

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Train."""
        assert here.public is not None, "pools_clients"
        taken = {"steps": round(total.sums["steps"])} if self.work == "cohort" else {}
        return here.public.train_delta(here.public.weights, **taken), state
