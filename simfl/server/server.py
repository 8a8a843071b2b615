"""The server's part of a round.

It sends weights and auxiliary variables, receives contributions, and takes one step.

This module uses neither Ray nor the disk.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from simfl.aggregation import AggregationContext, Aggregator, CohortSum, merge_contributions
from simfl.algorithms import Algorithm, FedAvg, ServerSide, Total
from simfl.algorithms.returned import require_sent, run_server
from simfl.client import ClientRecipe
from simfl.client.recipe import build_resident
from simfl.client.trainer import ClientTrainer
from simfl.data import Examples, FederatedDataset
from simfl.errors import AggregationError, ConfigError
from simfl.messages import (
    Broadcast,
    Contribution,
    Partial,
    RoundPlan,
    RoundReport,
    Snapshot,
)
from simfl.models import DataShape, Loss, ModelSpec, TorchModel, build_module
from simfl.models.base import InitialState, build_again
from simfl.optimizer import Optimizer
from simfl.seeding import derive_child
from simfl.server.weights import ServerWeights
from simfl.states import ServerState
from simfl.vector import Vector, count_bytes, is_finite


@dataclass(frozen=True)
class PublicData:
    """The server's public examples, and how they are trained on."""

    recipe: ClientRecipe
    examples: Examples

    def build(self) -> ClientTrainer:
        """Build what trains on them, as on a client's."""
        dataset = FederatedDataset.of_one(self.examples)
        return ClientTrainer(build_resident(self.recipe, dataset, device="cpu"))


@dataclass(frozen=True)
class ServerRecipe:
    """Everything needed to build the server; it is sent to the server's actor."""

    spec: ModelSpec
    shape: DataShape
    loss: Loss
    optimizer: Optimizer
    client_optimizer: Optimizer
    """Its modules define how the clients' auxiliary variables merge."""
    aggregator: Aggregator
    seed: int
    algorithm: Algorithm = field(default_factory=FedAvg)
    population: int = 0
    """The number of clients in the federation."""
    personal: tuple[str, ...] = ()
    """The weights and buffers that each client keeps for itself, by name."""
    fixed: tuple[str, ...] = ()
    """The weights and buffers that never change, by name."""
    public: PublicData | None = None
    initial: InitialState | None = field(default=None, repr=False, compare=False)
    """As that of clients."""

    def with_initial(self, initial: InitialState | None) -> ServerRecipe:
        """Return the recipe with what models are built from."""
        public = self.public
        if public is not None:
            public = replace(public, recipe=public.recipe.with_initial(initial))
        return replace(self, initial=initial, public=public)

    def build_model(self, *, draw: int = 0) -> TorchModel:
        """Build the model with the run's initial weights; it computes only the loss.

        Args:
            draw: other numbers give other initial weights.

        Raises:
            ConfigError: if the model has no others.
        """
        if draw and not self.spec.is_drawn:
            raise ConfigError(
                f"algorithm {self.algorithm.name!r} needs several initial weights, and the model "
                "is a module that has its own; give its class, or a function that makes it"
            )
        if draw:
            seed = derive_child(self.seed, draw)
            module = build_module(self.spec, self.shape, seed=seed)
        else:
            module = build_again(self.spec, self.shape, seed=self.seed, initial=self.initial)
        return TorchModel(module, self.loss, metrics=(), fixed=self.fixed)

    def _build_fresh(self, draw: int) -> Vector:
        """Return other initial values of what training may change, except for personal weights."""
        model = self.build_model(draw=draw)
        return model.live_weights(n for n in model.shared_names if n not in self.personal)

    def build(self) -> Server:
        """Build the server."""
        optimizer = copy.deepcopy(self.optimizer)
        optimizer.seed = self.seed
        return Server(
            self.build_model(),
            optimizer=optimizer,
            client_optimizer=self.client_optimizer,
            aggregator=self.aggregator,
            algorithm=self.algorithm,
            population=self.population,
            fresh=self._build_fresh,
            personal=self.personal,
            public=None if self.public is None else self.public.build(),
        )


class Server:
    """Holds the weights, and updates them with each round's contributions.

    Args:
        model: with the initial weights, which are not copied: it must not be trained.
        optimizer: turns the aggregated delta into an update of the weights.
        client_optimizer: the clients' optimizer, which defines how auxiliary variables merge.
        aggregator: combines the deltas into one.
        algorithm: turns their sum into what the optimizer takes for a gradient.
        population: the number of clients in the federation.
        fresh: a number, from 1 -> other initial weights.
        personal: the names of weights that clients keep for themselves, and the server lacks.
        public: trains on public examples, as client 0; None: there are none.
    """

    def __init__(
        self,
        model: TorchModel,
        *,
        optimizer: Optimizer,
        client_optimizer: Optimizer,
        aggregator: Aggregator,
        algorithm: Algorithm = FedAvg(),  # noqa: B008 it is immutable
        population: int = 0,
        fresh: Callable[[int], Vector] | None = None,
        personal: Collection[str] = (),
        public: ClientTrainer | None = None,
    ) -> None:
        self._public = public
        self._weights = ServerWeights(model, without=personal)
        self._algorithm = algorithm
        start = self._weights.all.select(n for n in model.shared_names if n not in personal)
        self._algorithm_state = algorithm.start(start.clone(), fresh or _no_fresh_weights)
        self._population = population
        self._optimizer = optimizer
        self._client_optimizer = client_optimizer
        self._aggregator = aggregator
        self._aggregator_state = aggregator.init(self._weights.like)
        self._sum = CohortSum(self._merge)
        self._broadcast_bytes = self._aux_bytes = 0

    def get_weights(self) -> Vector:
        """Return all weights but personal and fixed ones; later steps do not modify them."""
        return self._weights.all

    @property
    def trainable(self) -> tuple[str, ...]:
        """The names of the weights that are trained; the others are buffers."""
        return self._weights.trainable

    def set_weights(self, weights: Vector) -> None:
        """Replace all weights but personal and fixed ones, whose names these have."""
        self._weights.all = weights

    def snapshot(self, round: int) -> Snapshot:
        """Return the state at the start of a round, for its clients and for restoring the server.

        Raises:
            AggregationError: if auxiliary variables are not finite.
        """
        aux = self._optimizer.collect_aux_var()
        sent = require_sent(self._algorithm, self._algorithm.send(self._algorithm_state))
        if not _are_finite([value for variables in aux.values() for value in variables.values()]):
            raise _not_finite(round - 1, "server.optimizer's auxiliary variables")
        if not _are_finite(sent.values()):
            raise _not_finite(round - 1, f"algorithm {self._algorithm.name!r}")
        announced = self._aggregator.announce(self._aggregator_state)
        if not _are_finite(announced.values()):
            raise _not_finite(round - 1, f"server.aggregator {self._aggregator.name!r}")
        broadcast = Broadcast(round, self._weights.all, aux, sent, announced)
        self.count_sent(broadcast)
        kept = self._optimizer.export_state(), self._algorithm_state, self._aggregator_state
        return Snapshot(broadcast, ServerState(*kept))

    def restore(self, snapshot: Snapshot) -> None:
        """Restore the server from a snapshot; partials received so far are discarded."""
        self._weights.all = snapshot.broadcast.weights.clone()
        self._optimizer.import_state(snapshot.state.optimizer)
        self._algorithm_state = snapshot.state.algorithm
        self._aggregator_state = snapshot.state.aggregator
        self._sum = CohortSum(self._merge)
        self.count_sent(snapshot.broadcast)

    def receive(self, partial: Partial) -> None:
        """Add a chunk's partial to the round's tree; duplicates are ignored."""
        self._sum.add(partial)

    def end_round(self, plan: RoundPlan) -> RoundReport:
        """Finish the sum, and take the server's optimizer step.

        In a round without clients, or whose clients have all drawn no work, there is nothing to sum
        and no step: weights, and the states of algorithm and aggregator, stay. Only the optimizer's
        round begins and ends, since schedules by round follow the run's.

        Raises:
            AggregationError: if no client has contributed, or the result of finite client updates
                is not finite.
        """
        total = self.add_up(plan)
        return self.step(total, self.aggregate(total, plan), plan)

    def add_up(self, plan: RoundPlan) -> Contribution | None:
        """Return the sum of what was received; what follows is another cohort's.

        Args:
            plan: of the cohort.

        Returns:
            None without clients, or if all have drawn no work.

        Raises:
            AggregationError: if every client was dropped.
        """
        assert self._sum.starts or not plan.clients, "no partial was received"
        received, self._sum = self._sum, CohortSum(self._merge)
        total = received.result()
        if total is None and not plan.is_idle:
            raise AggregationError(
                f"every one of the {len(plan.clients)} clients of round {plan.round} was dropped; "
                "set client.on_failure and client.on_nonfinite to raise, to see why"
            )
        return total

    def step(self, total: Contribution | None, delta: Vector, plan: RoundPlan) -> RoundReport:
        """Take the step of the algorithm and the optimizer.

        Args:
            total: what the cohort has sent; None: nothing, and no step is taken.
            delta: what ``aggregate`` has made of it.
            plan: of the round.

        Raises:
            AggregationError: if the result of finite client updates is not finite.
        """
        if total is not None:
            self._optimizer.process_aux_var(total.aux)
        self._optimizer.start_round()
        if total is None:
            return self.report(plan, {}, norm=0.0)
        names = self._weights.trainable
        trained = delta.select(name for name in names if name in delta)
        buffers = delta.without(names)
        buffers = buffers | self._step(trained, total, round=plan.round)
        if buffers:
            self._weights.subtract_from_buffers(buffers)
        if not all(made.is_finite() for made in (self._weights.trained, buffers) if made):
            by = f"server.aggregator {self._aggregator.name!r}"
            raise _not_finite(plan.round, by if not delta.is_finite() else "server.optimizer")
        return self.report(plan, total.sums, norm=float(trained.norm()) if trained else 0.0)

    def aggregate(self, total: Contribution | None, plan: RoundPlan) -> Vector:
        """Return the aggregated delta, whose memory may be the total's.

        It has no names if no client has sent any.
        """
        if total is None or total.total is None:
            return Vector({})
        context = AggregationContext(
            seed=self._optimizer.seed,
            round=plan.round,
            contributed=int(total.sums["clients"]),
            planned=len(plan.clients),
            population=self._population,
            trainable=self._weights.trainable,
            counts=self._weights.counts,
        )
        delta: Vector
        delta, self._aggregator_state = self._aggregator.finish(
            total.total, total.weight, self._aggregator_state, context
        )
        return delta

    def _step(self, trained: Vector, total: Contribution, *, round: int) -> Vector:
        """Let the algorithm turn the delta into a gradient, and apply it; return its buffers."""
        seed = self._optimizer.seed
        public = None
        if self._public is not None:
            public = self._public.local(0, Broadcast(round, self._weights.all, {}), None)
        now, buffers = self._weights.trained, self._weights.buffers
        here = ServerSide(now, self._population, round, seed, public, buffers)
        cohort = Total(trained, total.weight, int(total.sums["clients"]), total.update_sums)
        made, self._algorithm_state = run_server(
            self._algorithm, cohort, self._algorithm_state, here, weights=self._weights.all
        )
        gradients = made.select(name for name in self._weights.trainable if name in made)
        if gradients:
            self._weights.stepped = gradients.names
            self._optimizer.apply_gradients(self._weights, gradients)
        return made.without(gradients.names)

    def report(self, plan: RoundPlan, found: Mapping[str, float], *, norm: float) -> RoundReport:
        """Return the numbers of a round.

        Args:
            plan: of the round.
            found: ``Contribution.sums`` of the cohort; empty: no client has contributed.
            norm: of the aggregated delta.
        """
        sums: defaultdict[str, float] = defaultdict(float, found)
        receivers = len(plan.clients) + plan.num_asked
        return RoundReport(
            round=plan.round,
            num_clients=int(sums["clients"]),
            num_dropped=len(plan.clients) - int(sums["clients"]),
            num_examples=int(sums["examples"]),
            num_seen=int(sums["seen"]),
            num_steps=int(sums["steps"]),
            train_loss=sums["loss"] / sums["seen"] if sums["seen"] else math.nan,
            delta_norm=norm,
            sent_bytes=receivers * self._broadcast_bytes,
            received_bytes=int(sums["bytes"]),
            received_dense_bytes=int(sums["dense_bytes"]),
            aux_bytes=receivers * self._aux_bytes + int(sums["aux_bytes"]),
        )

    def count_sent(self, broadcast: Broadcast) -> None:
        """Count, for the next report, the bytes of what each client receives."""
        self._broadcast_bytes = count_bytes(broadcast)
        self._aux_bytes = count_bytes(broadcast.aux)

    def _merge(self, left: Contribution, right: Contribution) -> Contribution:
        return merge_contributions(
            left, right, aggregator=self._aggregator, optimizer=self._client_optimizer
        )


def _no_fresh_weights(draw: int) -> Vector:
    raise AssertionError(f"no way was given to draw initial weights {draw}")


def _are_finite(values: Iterable[Any]) -> bool:
    return all(bool(is_finite(value).all()) for value in values)


def _not_finite(round: int, where: str) -> AggregationError:
    return AggregationError(
        f"round {round}: {where}: NaN or infinite values resulted from finite client updates; "
        "lower the learning rates, or check its computation"
    )
