"""Federation: rounds in a loop of one's own, on the engines on which runs take place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from numbers import Integral
from typing import Any

from torch import nn

from simfl.aggregation import Separate
from simfl.algorithms import Algorithm
from simfl.engine import Cohort, Engine, Handle, snapshot_of
from simfl.errors import AggregationError, InputError, RunError, StatesLostError
from simfl.messages import Broadcast, Contribution, RoundReport, Snapshot
from simfl.record import RoundRecord
from simfl.sampling import Past
from simfl.simulation.evaluation import ask_losses, measure
from simfl.simulation.results import Result, module_with
from simfl.simulation.runner import Run
from simfl.simulation.totals import (
    ClientUpdate,
    Saved,
    Total,
    clients_of,
    like,
    plan_cohort,
    record_loop,
)
from simfl.states import State
from simfl.vector import Vector


class Federation:
    """The clients of a scenario, and what a loop needs to train them; see ``simfl.federation``.

    Weights are Vectors with the names that the server sends. Clients train as in a run, on the same
    actors: with the same batches, stacks, drops and kept states.

    Args:
        run: the scenario with its folder.
        engine: of the run.
    """

    def __init__(self, run: Run, engine: Engine) -> None:
        self._run, self._engine, self._simulation = run, engine, run.simulation
        self._server = self._simulation.server.build()
        self._initial = self._server.get_weights()
        self._past: Past | None = None
        self._saved = self._go_back()
        self._latest, self._round = self._saved.weights, self._saved.round
        self._evaluated: Handle = None
        """What was evaluated since the last training."""
        self._saves = [self._saved.round] if self._saved.round else []
        self._trained: list[tuple[RoundReport, Cohort]] = []
        """Since the last ``log``."""
        self._asked: dict[int, int] = {}
        """How many other clients the sampler has asked for the next round."""
        self._is_broken = False
        run.clock.enter("aggregate")
        run.clock.lap()

    @property
    def clients(self) -> tuple[int, ...]:
        """The ids of the clients that may train."""
        return tuple(self._simulation.participants.tolist())

    @property
    def algorithm(self) -> Algorithm:
        """The scenario's: ``train`` runs its client half, and ``step`` its server half."""
        return self._simulation.server.algorithm

    @property
    def rounds(self) -> Iterator[int]:
        """The rounds that are left of the scenario's, until ``stop`` ends them early."""
        for round in range(self._saved.round + 1, self._simulation.scenario.rounds + 1):
            if self._run.reason_to_stop is not None:
                return
            yield round

    def initial_weights(self) -> Vector:
        """Return what a run of the scenario starts from."""
        return self._initial

    def sample(self, round: int, weights: Vector | None = None) -> tuple[int, ...]:
        """Draw a round's cohort by ``client.sampler``; return the ids of its clients.

        Args:
            round: which round, from 1.
            weights: the server's, for samplers that ask clients for their losses.

        Raises:
            InputError: if the sampler asks, and there are no weights; for a round that is none.
        """
        if not isinstance(round, Integral) or round < 1:
            raise InputError(f"sample: round is {round!r}; give a whole number from 1 on")
        with self._phase("sample"):
            plan = self._simulation.plan_round(
                round, self._past, partial(self._ask, weights, round)
            )
            self._asked = {round: plan.num_asked}
            return tuple(sorted(plan.clients))

    def train(
        self,
        weights: Vector,
        clients: Sequence[int],
        *,
        round: int,
        aux: Mapping[str, Mapping[str, Any]] | None = None,
        received: State | None = None,
    ) -> Total:
        """Train clients for a round; return the sum of what they send, formed on the actors.

        What clients keep from round to round is kept.

        Args:
            weights: what they start from.
            clients: their ids, all different.
            round: which round, from 1. Batches, dropout and schedules follow from it.
            aux: the auxiliary variables that the clients' modules receive, by name; None: those
                of the scenario's server, which ``step`` updates.
            received: what the algorithm's client half receives; None: likewise.

        Raises:
            InputError: for weights or clients that the scenario does not have.
            RunError: if a client fails, or every client was dropped.
        """
        cohort, sent = self._train(weights, clients, round, aux, received)
        with self._phase("aggregate"):
            mean = self._server.aggregate(sent, cohort.plan)
            if sent is None and self.algorithm.sends_delta:
                mean = self._initial.zeros_like()
            buffers = mean.without(self._server.trainable)
            trained = mean.without(buffers.names)
            report = self._note(cohort, sent, norm=float(trained.norm()) if trained else 0.0)
            sums, weight = (sent.update_sums, sent.weight) if sent else ({}, 0.0)
            table = clients_of([cohort], round)
            aux = sent.aux if sent else {}
            return Total(mean, buffers, weight, sums, aux, table, report, sent, cohort)

    def train_each(
        self,
        weights: Vector,
        clients: Sequence[int],
        *,
        round: int,
        aux: Mapping[str, Mapping[str, Any]] | None = None,
        received: State | None = None,
    ) -> list[ClientUpdate]:
        """Train clients for a round; return what each has sent, in the order of the cohort.

        It needs the memory of all deltas. Dropped clients are left out; otherwise as ``train``.

        Raises:
            InputError: also if the algorithm's clients send no weights.
            RunError: as ``train``.
        """
        if not self.algorithm.sends_delta:
            name = self.algorithm.name
            raise InputError(f"train_each: clients of {name!r} send no weights; use train")
        cohort, sent = self._train(weights, clients, round, aux, received, separate=True)
        self._note(cohort, sent, norm=math.nan)
        deltas = sent.total.deltas if sent and isinstance(sent.total, Separate) else ()
        table = clients_of([cohort], round)
        ids, losses = table.client.tolist(), table.train_loss.tolist()
        left = [row for row in zip(ids, losses, strict=True) if row[0] not in table.dropped]
        return [
            ClientUpdate(client, delta, weight, loss)
            for (client, loss), (delta, weight) in zip(left, deltas, strict=True)
        ]

    def step(self, weights: Vector, total: Total) -> Vector:
        """Take the step of the scenario's server; return the new weights.

        That is the server half of ``algorithm``, and ``server.optimizer``. Their states are kept
        here, and ``save`` saves them.

        Args:
            weights: what the cohort has started from.
            total: what ``train`` has returned.

        Raises:
            RunError: if the new weights are not finite.
        """
        with self._phase("aggregate"):
            self._server.set_weights(self._checked(weights))
            mean = total.mean if total.sent is not None else Vector({})
            self._server.step(total.sent, mean, total.cohort.plan)
            return self._server.get_weights()

    def evaluate(self, weights: Vector, *, clients: bool = False) -> dict[str, Any]:
        """Return ``loss`` and the scenario's metrics on the test split, if there is one.

        They are numbers; None without a value, and nested lists of confusion matrices.

        Args:
            weights: what is evaluated.
            clients: whether to evaluate on each client's own examples, too, as ``client_loss``...
        """
        with self._phase("evaluate"):
            handle = self._evaluated = self._put(weights, self._round + 1)
            found = measure(self._simulation, self._engine, handle, test=True, clients=clients)
            record = RoundRecord(
                self._round, metrics=found.metrics, client_metrics=found.client_metrics
            )
            numbers = {key: n for key, n in record.measures.items() if key != "train_loss"}
            return numbers | found.arrays

    def log(self, round: int, *, weights: Vector | None = None, **values: Any) -> None:
        """Add a round to the history, judge it (``stop``, ``output.best``), and tell the observers.

        Its counts and seconds are those of all that was trained since the last call.

        Args:
            round: which round: 1, then 2, 3...
            weights: what it has ended with, which are kept if they are the best; None: those that
                were evaluated after training.
            values: numbers or None, and lists of numbers, by name. ``train_loss`` is the clients'
                mean, unless it is given.

        Raises:
            InputError: for another round, a name that records have already, or the best round if
                its weights are not known.
        """
        self._require(round, self._run.num_rounds + 1, "log")
        with self._phase("observe"):
            lap, actors = self._run.clock.lap(), self._engine.num_actors
            record = record_loop(round, self._trained, values, lap=lap, num_actors=actors)
            table = clients_of([cohort for _, cohort in self._trained], round)
            self._run.note(record, table)
            self._trained = []
            handle = self._evaluated if weights is None else self._put(weights, round + 1)
            self._run.judge(record, handle)

    def save(self, round: int, weights: Vector, **values: Any) -> None:
        """Write a checkpoint: the weights, and the states of clients, sampler and server.

        Args:
            round: the last round, already logged.
            weights: what the next one starts from.
            values: what else the loop needs: numbers, text, tensors, Vectors, lists and dicts.

        Raises:
            InputError: for another round.
            RunError: if it cannot be written.
        """
        self._require(round, self._run.num_rounds, "save")
        with self._phase("checkpoint"):
            self._latest = self._checked(weights)
            state = self._server.snapshot(round + 1).state
            both = replace(state, algorithm={"algorithm": state.algorithm, "values": values})
            handle = self._engine.put(Snapshot(Broadcast(round + 1, self._latest, {}), both))
            self._run.note_history(round)
            self._run.store_best(self._engine, round=round, saved=self._saves)
            self._saves = [*self._saves, round][-self._simulation.scenario.checkpoint.keep - 1 :]
            self._run.checkpoints.save(self._engine, handle, round=round, past=self._past)

    def restore(self) -> Saved:
        """Return what an earlier loop in this folder has saved last, with ``resume="auto"``.

        At the start: round 0, the initial weights, and no values.
        """
        return self._saved

    def model(self, weights: Vector) -> nn.Module:
        """Return the model with these weights: a module of torch, in evaluation mode."""
        return module_with(self._simulation, self._checked(weights))

    @property
    def result(self) -> Result:
        """As that of a run, once the block has ended.

        Raises:
            InputError: before.
        """
        if not hasattr(self._run, "result"):
            raise InputError("result: there is none before the block has ended; ask after it")
        return self._run.result

    def close(self) -> None:
        """Finish: write the weights last trained from, evaluated or saved."""
        self._run.checkpoints.finish(self._engine)
        handle = self._put(self._latest, self._round + 1)
        self._run.end(self._engine, handle, status="done")

    # -- inside ----------------------------------------------------------------------------

    def _train(
        self,
        weights: Vector,
        clients: Sequence[int],
        round: int,
        aux: Mapping[str, Mapping[str, Any]] | None,
        received: State | None,
        *,
        separate: bool = False,
    ) -> tuple[Cohort, Contribution | None]:
        if self._is_broken:
            raise RunError("train: an earlier call has failed; open the federation again")
        with self._phase("train"):
            plan = plan_cohort(self._simulation, clients, round)
            plan = replace(plan, num_asked=self._asked.pop(round, 0))
            if len(plan.clients) and not separate:
                self._simulation.server.aggregator.check_cohort(len(plan.clients))
            handle = self._put(weights, round, aux, received, separate=separate)
            self._is_broken, self._round, self._evaluated = True, round, None
            try:
                cohort = self._engine.train(plan, handle)
                sent = self._engine.add_up(cohort)
            except AggregationError:  # nothing of the cohort is left
                self._is_broken = False
                raise
            except StatesLostError as error:
                remedy = "open the federation again with resume='auto', to go on from the last save"
                raise RunError(f"{error}; {remedy}") from None
            self._is_broken = False
            return cohort, sent

    def _put(
        self,
        weights: Vector,
        round: int,
        aux: Mapping[str, Mapping[str, Any]] | None = None,
        received: State | None = None,
        *,
        separate: bool = False,
    ) -> Handle:
        """Have the engine send these weights, with what the scenario's server sends."""
        self._latest = self._checked(weights)
        snapshot = self._server.snapshot(round)
        sent = snapshot.broadcast
        broadcast = replace(
            sent,
            weights=self._latest,
            aux=sent.aux if aux is None else {name: dict(known) for name, known in aux.items()},
            algorithm=sent.algorithm if received is None else received,
            separate=separate,
        )
        self._server.count_sent(broadcast)
        return self._engine.put(replace(snapshot, broadcast=broadcast))

    def _note(self, cohort: Cohort, sent: Contribution | None, *, norm: float) -> RoundReport:
        """Keep what the next record and the sampler need of a cohort; return its numbers."""
        report = self._server.report(cohort.plan, sent.sums if sent else {}, norm=norm)
        self._trained.append((report, cohort))
        self._past = self._simulation.learn(self._past, clients_of([cohort], cohort.plan.round))
        return report

    def _ask(self, weights: Vector | None, round: int, clients: Any) -> Any:
        if weights is None:
            name = self._simulation.sampler.name
            raise InputError(
                f"sample: {name!r} asks clients for their losses; call sample({round}, weights)"
            )
        handle = self._put(weights, round)
        return ask_losses(self._simulation, self._engine, handle, clients)

    def _checked(self, weights: Vector) -> Vector:
        return like(self._initial, weights)

    def _require(self, round: int, wanted: int, what: str) -> None:
        if round != wanted:
            logged = self._run.num_rounds
            remedy = f"give {wanted}" if wanted else "call log first"
            raise InputError(
                f"{what}: round is {round!r}, but the last logged one is {logged}; {remedy}"
            )

    def _go_back(self) -> Saved:
        """Go back to the checkpoint from which the loop goes on, if there is one."""
        found = self._run.found
        checkpoint = found.checkpoint
        self._past = self._simulation.read_past(checkpoint.sampler if checkpoint else None)
        if checkpoint is None:
            return Saved(0, self._initial, {})
        both = checkpoint.algorithm
        checkpoint = replace(checkpoint, algorithm=both["algorithm"])
        self._engine.restore(replace(found, checkpoint=checkpoint))
        self._server.restore(snapshot_of(checkpoint))
        return Saved(checkpoint.round, self._server.get_weights(), both["values"])

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Count a block's seconds as a phase's; those of the loop itself are the server's."""
        self._run.clock.enter(name)
        yield
        self._run.clock.enter("aggregate")
