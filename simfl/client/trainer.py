"""ClientTrainer: what clients do in a round, one client at a time or a stack of them."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from dataclasses import replace

import torch

from simfl.algorithms.returned import require_update
from simfl.client.client_stack import ClientStack
from simfl.client.local import LocalRound
from simfl.client.one_client import OneClient
from simfl.client.outcome import to_outcome
from simfl.client.recipe import Resident
from simfl.client.trainee import Trainee
from simfl.client.updates import ClientRow, Outcome, StepLosses
from simfl.errors import ClientError, ConfigError, NonFiniteUpdateError
from simfl.messages import Broadcast
from simfl.models import StackedModel
from simfl.sampling import LocalWork
from simfl.states import Dropped, KeptState
from simfl.vector import Vector, move, tensors_of


class ClientTrainer:
    """Runs the client's half of the algorithm for any client, or for a stack of them.

    Args:
        resident: what all clients use in turn.
    """

    def __init__(self, resident: Resident) -> None:
        self._resident = resident
        self._recipe = resident.recipe
        size = self._recipe.stack
        self._stack = StackedModel(resident.model, size) if size > 1 else None
        self._shared: tuple[Broadcast, dict[bool, Vector]] | None = None
        parts = self._recipe.algorithm, self._recipe.loss, *resident.optimizer.pipeline.plugins
        self._is_ours = all(type(part).__module__.startswith("simfl.") for part in parts)

    def train(
        self, client: int, broadcast: Broadcast, state: KeptState | None, work: LocalWork
    ) -> Outcome:
        """Train a client; an exception in its own code ends the run, or drops the client.

        Args:
            client: its id.
            broadcast: what it starts from.
            state: what it has kept.
            work: what it does in this round.

        Raises:
            ConfigError: if it cannot train with this scenario, which no other client can either.
            ClientError: if its own code raises and the scenario says to raise.
            NonFiniteUpdateError: likewise, if its update is not finite.
            torch.cuda.OutOfMemoryError: if the device is full, which is no error of the client.
        """
        began = time.perf_counter()
        try:
            outcome = self._run(self.local(client, broadcast, state, work), (client,))
        except (ConfigError, NonFiniteUpdateError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:
            outcome = self._failed(client, broadcast.round, error)
        row = outcome.rows[0]._replace(seconds=time.perf_counter() - began)
        return replace(outcome, rows=[row])

    def train_stack(
        self,
        clients: Sequence[int],
        broadcast: Broadcast,
        states: Sequence[KeptState | None],
        work: LocalWork,
    ) -> Outcome:
        """Train clients that have a step to do each, in one computation.

        Args:
            clients: [C] ids, those with more steps first.
            broadcast: what they start from.
            states: [C] what each client has kept.
            work: what they do in this round.

        Raises:
            NonFiniteUpdateError: if an update is not finite and the scenario says to raise.
            Exception: whatever a client's own code raises, without the client's id.
        """
        assert self._stack is not None, "the recipe has no stacks"
        began = time.perf_counter()
        trainee = ClientStack(self._resident, self._stack, clients, broadcast.round)
        outcome = self._run(self._begin(trainee, broadcast, states, work), clients)
        seconds = time.perf_counter() - began
        steps = max(sum(row.losses.num_steps for row in outcome.rows), 1)
        # Not by _replace(), which takes three times as long: there may be hundreds of clients.
        rows = [
            ClientRow(*row[:4], seconds * row.losses.num_steps / steps, row.retained)
            for row in outcome.rows
        ]
        return replace(outcome, rows=rows)

    def local(
        self,
        client: int,
        broadcast: Broadcast,
        state: KeptState | None,
        work: LocalWork | None = None,
    ) -> LocalRound:
        """Return a client's round before anything has happened in it.

        Without ``work``, as outside a cohort, it is the scenario's, drawn for this client alone.
        """
        trainee = OneClient(self._resident, client, broadcast.round)
        return self._begin(trainee, broadcast, (state,), work or self._work_alone(trainee))

    def _work_alone(self, trainee: Trainee) -> LocalWork:
        work, ids = self._recipe.work, trainee.clients
        examples = self._resident.dataset.num_train_examples(ids)
        drawn = work.draw_steps(examples, seed=self._recipe.seed, round=trainee.round, clients=ids)
        return work if drawn is None else work.taking(drawn.tolist())

    def _begin(
        self,
        trainee: Trainee,
        broadcast: Broadcast,
        states: Sequence[KeptState | None],
        work: LocalWork,
    ) -> LocalRound:
        if self._resident.device != "cpu":
            states = move(tuple(states), self._resident.device)
        shared = self._shared_weights(broadcast, stacked=trainee.stacked)
        return LocalRound(self._resident, trainee, broadcast, shared, states, work)

    def _run(self, local: LocalRound, clients: Sequence[int]) -> Outcome:
        algorithm = self._recipe.algorithm
        before = self._versions(local.broadcast)
        update, kept = require_update(algorithm, algorithm.client(local))
        if self._versions(local.broadcast) != before:
            raise ConfigError(
                f"client {clients[0]} has written to what the server sent, which all clients read; "
                "in algorithms, losses and plug-ins of yours, write a + b instead of a.add_(b), or "
                "clone() first"
            )
        examples = self._resident.dataset.num_train_examples(clients).tolist()
        losses = local.losses or [StepLosses()] * len(clients)
        rows = list(map(ClientRow, clients, examples, losses))
        return to_outcome(local, update, kept, rows)

    def _versions(self, broadcast: Broadcast) -> list[int]:
        """Return how often each tensor was written to, unless all code is known not to do that."""
        if self._is_ours:
            return []
        return [one._version for one in tensors_of(broadcast) if not one.is_inference()]

    def _shared_weights(self, broadcast: Broadcast, *, stacked: bool) -> Vector:
        """Return the weights of a broadcast that training may change; a selection is made once."""
        if self._shared is None or self._shared[0] is not broadcast:
            self._shared = broadcast, {}
        known = self._shared[1]
        if stacked not in known:
            model = self._resident.model
            names = model.trainable if stacked else model.shared_names
            known[stacked] = broadcast.weights.select(n for n in names if n in broadcast.weights)
        return known[stacked]

    def _failed(self, client: int, round: int, error: Exception) -> Outcome:
        what = f"{type(error).__name__}: {error}"
        if self._recipe.work.on_failure == "drop":
            num_examples = len(self._resident.dataset.train_rows(client))
            return Outcome(None, [ClientRow(client, num_examples, retained=Dropped(what))])
        raise ClientError(
            f"client {client} failed in round {round}: {what}",
            client=client,
            round=round,
            client_traceback=traceback.format_exc(),
        ) from error
