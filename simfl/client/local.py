"""LocalRound: a client's round, or a stack's, as ``Algorithm.client`` sees it.

Shapes: C clients of a stack, A those that still have steps to do, a prefix of them. Without a
stack, there is no such axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from simfl.client.personal import PersonalWeights
from simfl.client.recipe import Resident
from simfl.client.steps import Step, Steps
from simfl.client.trainee import Trainee, expand
from simfl.client.updates import StepLosses
from simfl.errors import ConfigError
from simfl.messages import Broadcast
from simfl.models import Batch, ModelFunction
from simfl.models.model_function import Objective, active_rows
from simfl.optimizer import LocalOptimizer, Optimizer
from simfl.optimizer.schedule import goes_by_steps, rate_at
from simfl.optimizer.state import join_states, rows_of, stack_states
from simfl.sampling import LocalWork
from simfl.seeding import derive_seed
from simfl.states import KeptState, State
from simfl.vector import Vector

MAIN = ""
"""The phase of the round's main training."""


class LocalRound:
    """Implements ``simfl.algorithms.Local``, which documents the public members.

    Args:
        resident: what the host's clients use in turn.
        trainee: the client, or the stack of them.
        broadcast: what the round starts from.
        shared: those of the broadcast's weights that training may change.
        states: [C] what each client has kept; None for a new one.
        work: what they do in this round.
    """

    def __init__(
        self,
        resident: Resident,
        trainee: Trainee,
        broadcast: Broadcast,
        shared: Vector,
        states: Sequence[KeptState | None],
        work: LocalWork,
    ) -> None:
        self._resident = resident
        self._recipe = resident.recipe
        self._trainee = trainee
        self._broadcast = broadcast
        self._shared = shared
        self._work = work
        self.states = tuple(states)
        self.optimizers: dict[str, LocalOptimizer] = {}
        """By phase, those that have trained and whose states are kept."""
        self._trained: set[str] = set()
        self.num_steps_of: dict[str, list[int]] = {}
        """[C] by phase, how many steps each client has taken."""
        self.losses: list[StepLosses] | None = None
        """[C] those of the main training, or else of the first."""
        self.personal = PersonalWeights(
            resident.initial, resident.model.trainable, states, stacked=trainee.stacked
        )
        self._is_loaded = False
        self._scan_order: Tensor | None = None
        self._step: Step | None = None
        """The step of ``scan``."""
        self._scan_given: Mapping[str, Any] = {}
        """What the loss needs besides in its steps."""
        self._loss: Tensor | None = None
        """The first loss that was computed in it."""

    @property
    def stacked(self) -> bool:
        """Whether it is that of a stack."""
        return self._trainee.stacked

    @cached_property
    def trainable(self) -> tuple[str, ...]:
        """The names of the shared weights that gradients are computed for."""
        return self.personal.without(self._trainee.like).names

    def fresh(self) -> KeptState:
        """Return what a client keeps whose optimizer has nothing to keep."""
        pipeline = self._resident.optimizer.pipeline
        return KeptState(0, **pipeline.by_kind(pipeline.empty()))

    # -- what a client is given ------------------------------------------------------------

    @property
    def weights(self) -> Vector:
        """The server's weights."""
        return self._shared

    @property
    def received(self) -> State:
        """What the server's half of the algorithm sends."""
        return self._broadcast.algorithm

    @property
    def announced(self) -> State:
        """What the aggregator announces to the clients."""
        return self._broadcast.aggregator

    @cached_property
    def kept(self) -> State:
        """What the clients have kept, of new ones what ``init`` returns."""
        fresh = self._recipe.algorithm.init(self.weights)
        each = [{**fresh, **(state.algorithm if state else {})} for state in self.states]
        if not self._trainee.stacked:
            return each[0]
        return {key: _stacked(leaf, len(each)) for key, leaf in stack_states(each).items()}

    @cached_property
    def clients(self) -> Tensor:
        """The ids."""
        return self._numbers(self._trainee.clients, torch.int64)

    @property
    def round(self) -> int:
        """Which round this is."""
        return self._broadcast.round

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self._recipe.seed

    @cached_property
    def num_examples(self) -> Tensor:
        """How many examples each client trains on."""
        examples = self._resident.dataset.num_train_examples(self._trainee.clients)
        return self._numbers(examples.tolist(), torch.float64)

    @cached_property
    def num_steps(self) -> Tensor:
        """How many steps each client's work of this round amounts to."""
        examples = self._resident.dataset.num_train_examples(self._trainee.clients)
        return self._numbers(self._work.num_steps(examples).tolist(), torch.float64)

    @property
    def weight(self) -> Tensor:
        """How the server weights each client."""
        by = {"examples": self.num_examples, "steps": self.num_steps}
        return by.get(self._recipe.weighting, torch.ones_like(self.num_examples))

    @cached_property
    def lrate(self) -> float | Tensor:
        """The rate of the round's first step."""
        rate = self._resident.optimizer.lrate
        counts = [state.num_steps if state else 0 for state in self.states]
        rates = [rate_at(rate, round=self.round, num_steps=count) for count in counts]
        return self._numbers(rates, torch.float64) if goes_by_steps(rate) else rates[0]

    def names(self, layers: Iterable[str]) -> tuple[str, ...]:
        """Return the names of the weights and buffers in some layers."""
        return self._resident.model.names_in(layers)

    # -- training --------------------------------------------------------------------------

    def train(self, start: Vector, **options: Any) -> Vector:
        """Run the clients' Optimizer from some weights; return those it ends with."""
        return self._end(self._train(start, **options))

    def train_delta(self, start: Vector, **options: Any) -> Vector:
        """Return ``start - train(start, ...)``."""
        whole = self.personal.fill_in(start)
        plan = self._train(start, **options)
        if plan.order is not None:
            return start - self._end(plan)
        return self.personal.without(self._trainee.compute_delta(whole))

    def _end(self, plan: Steps) -> Vector:
        """Return a copy of the weights at the end of a training."""
        end = self.personal.without(self._trainee.live).clone()
        return end if plan.order is None else end.rows(plan.order.argsort())

    def _train(
        self,
        start: Vector,
        *,
        add: Callable[..., Vector] | None = None,
        objective: Objective | None = None,
        given: tuple[Any, ...] = (),
        only: Iterable[str] | None = None,
        phase: str = MAIN,
        epochs: float | None = None,
        steps: int | None = None,
        optimizer: Optimizer | None = None,
    ) -> Steps:
        """Train; the trainee has the weights afterwards, in the order of the plan."""
        plan = self._plan(phase, epochs, steps)
        names = None if only is None else self._trainable(only, phase)
        start, given = _in_order(start, plan.order), _in_order(given, plan.order)
        whole = self.personal.fill_in_given(given, plan.order)
        loss_given = self._find_loss_given(plan.order)
        self._load(start, plan.order)
        local = self._begin(phase, plan.order, names, optimizer)
        model, losses = self._trainee.stepped(names), []
        with plan.seeded():
            for step in plan:
                if step.active < local.num_active:
                    self._trainee.narrow(step.active)
                    local.narrow(step.active)
                    given, whole = (_first_rows(each, step.active) for each in (given, whole))
                loss, gradients = self._differentiate(step, objective, whole, loss_given)
                if names is not None:
                    gradients = gradients.select(names)
                if add is not None:
                    live = self.personal.without(self._trainee.live)
                    gradients = self.personal.add(gradients, add(live, *given))
                local.apply_gradients(model, gradients)
                losses.append(loss)
        self._trainee.narrow(len(self.states))
        self.personal.take(self._trainee.live, plan.order)
        local.end_steps(None if plan.order is None else plan.order.argsort())
        if optimizer is None:
            self.optimizers[phase] = local
            self.num_steps_of[phase] = _unsorted(plan.num_steps, plan.order)
        self._record(phase, plan, losses)
        return plan

    def _begin(
        self,
        phase: str,
        order: Tensor | None,
        names: Sequence[str] | None,
        given: Optimizer | None,
    ) -> LocalOptimizer:
        """Return the Optimizer of a phase, at the beginning of its training.

        Raises:
            ConfigError: if the phase has been trained in this round.
        """
        if phase in self._trained:
            raise ConfigError(
                f"algorithm {self._recipe.algorithm.name!r} trains the phase {phase!r} twice in a "
                "round; name the phase of the second training: train(..., phase='own')"
            )
        self._trained.add(phase)
        chosen = self._resident.optimizer if given is None else given
        exchanges = phase == MAIN and given is None
        if not exchanges:
            chosen = chosen.without_exchange(seed=self.seed)
        optimizer = LocalOptimizer(chosen, stacked=self._trainee.stacked)
        rows = range(len(self.states)) if order is None else order.tolist()
        like = self._trainee.like
        optimizer.begin(
            [self._trainee.clients[row] for row in rows],
            round=self.round,
            kept=[None if given else self._kept_in(phase, self.states[row]) for row in rows],
            aux=self._broadcast.aux if exchanges else {},
            like=like if names is None else like.select(names),
        )
        return optimizer

    def _kept_in(self, phase: str, state: KeptState | None) -> KeptState | None:
        return state if phase == MAIN or state is None else state.phases.get(phase)

    # -- passes and sums -------------------------------------------------------------------

    def scan(
        self,
        step: Callable[..., State],
        carry: State,
        *,
        given: tuple[Any, ...] = (),
        phase: str = MAIN,
        epochs: float | None = None,
        steps: int | None = None,
    ) -> State:
        """Run (carry, batch, *given) -> carry for each batch; return the last carry."""
        plan = self._plan(phase, epochs, steps)
        num_clients, stacked = len(self.states), self._trainee.stacked
        if stacked:
            carry = {key: _stacked(leaf, num_clients) for key, leaf in carry.items()}
        carry, given = _in_order(carry, plan.order), _in_order(given, plan.order)
        self._scan_order = plan.order
        self._scan_given = self._find_loss_given(plan.order)
        self._load(None)
        active = num_clients
        ended: list[State] = []
        losses: list[Tensor] = []
        with plan.seeded():
            for self._step in plan:
                if self._step.active < active:
                    active = self._step.active
                    ended.append(rows_of(carry, slice(active, None)))
                    carry, given = rows_of(carry, slice(active)), _first_rows(given, active)
                    self._trainee.narrow(active)
                self._loss = None
                carry = step(carry, self._step.batch, *given)
                if self._loss is not None:
                    losses.append(self._loss)
        self._step = None
        self._trainee.narrow(num_clients)
        self._record(phase, plan, losses)
        carry = join_states([carry, *reversed(ended)]) if ended else carry
        return carry if plan.order is None else rows_of(carry, plan.order.argsort())

    def gradients(
        self,
        weights: Vector,
        batch: Batch,
        *,
        objective: Objective | None = None,
        given: tuple[Any, ...] = (),
    ) -> Vector:
        """Return the gradients of a batch's loss, for steps of ``scan``."""
        assert self._step is not None, "gradients() is for the steps of scan()"
        place = self._scan_order, self._step.active
        at = self.personal.fill_in(weights, *place)
        given = self.personal.fill_in_given(given, *place)
        step = self._step._replace(batch=batch)
        loss, gradients = self._differentiate(step, objective, given, self._scan_given, at=at)
        self._loss = loss if self._loss is None else self._loss
        return self.personal.without(gradients)

    def loss(self, weights: Vector) -> Tensor:
        """Return the mean loss over all of the clients' examples."""
        sums = self.total(_sum_of_losses, weights)
        mean: Tensor = sums["loss"] / sums["examples"].clamp(min=1.0)
        return mean

    def total(self, function: Callable[..., Mapping[str, Tensor]], *given: Any) -> State:
        """Add up a function of batches over all of the clients' examples."""
        self._load(None)
        values = self.personal.fill_in_given(given)
        found = self._trainee.total(function, values, self._find_loss_given(None))
        return {key: value for key, value in found.items() if key not in self._recipe.personal}

    # -- inside ----------------------------------------------------------------------------

    def _load(self, start: Vector | None, order: Tensor | None = None) -> None:
        """Put weights into the model; None: at least those that are not trained."""
        if start is not None or not self._is_loaded:
            start = self.weights if start is None else start
            self._trainee.load(self._base, self.personal.fill_in(start, order))
            self._is_loaded = True

    @cached_property
    def _base(self) -> Vector:
        """All weights of the model, with initial values for what the server does not send."""
        sent = self._broadcast.weights
        missing = [name for name in self._resident.initial if name not in sent]
        return sent | self._resident.initial.select(missing) if missing else sent

    def _find_loss_given(self, order: Tensor | None) -> Mapping[str, Any]:
        """Return what the loss needs besides a batch, of the clients in this order."""
        found, clients = self._resident.loss_given, self._trainee.clients
        if found is None:
            return {}
        start = self.personal.fill_in(self.weights, order)
        if not self._trainee.stacked:
            return found.of_client(clients[0], start)
        rows = range(len(clients)) if order is None else order.tolist()
        return found.of_stack([clients[row] for row in rows], start)

    def _plan(self, phase: str, epochs: float | None, steps: int | None) -> Steps:
        work = self._work
        if epochs is not None or steps is not None:
            work = replace(work, epochs=epochs, steps=steps)
        seed = self.seed if phase == MAIN else derive_seed(self.seed, f"phase {phase}")
        return self._trainee.steps(work, seed=seed)

    def _trainable(self, only: Iterable[str], phase: str) -> tuple[str, ...]:
        """Return the names that a phase trains; the main one always trains personal weights."""
        wanted, trainable = frozenset(only), self._resident.model.trainable
        if not wanted & trainable.keys():
            raise ConfigError(
                f"algorithm {self._recipe.algorithm.name!r} trains only {sorted(wanted)}, none of "
                "which is a trained weight of the model; local.names(layers) are those of layers"
            )
        also = frozenset(self._recipe.personal if phase == MAIN else ())
        return tuple(name for name in trainable if name in wanted | also)

    def _differentiate(
        self,
        step: Step,
        objective: Objective | None,
        given: tuple[Any, ...],
        loss_given: Mapping[str, Any],
        at: Vector | None = None,
    ) -> tuple[Tensor, Vector]:
        """Return losses and gradients, clipped if the scenario says so."""
        loss, gradients = self._trainee.differentiate(step.batch, objective, given, loss_given, at)
        if self._recipe.work.sclip:
            share = self._trainee.clip_share(step)
            gradients = gradients if share is None else gradients * share
        return loss, gradients

    def _record(self, phase: str, plan: Steps, losses: Sequence[Tensor]) -> None:
        """Keep the losses of the main phase, or else of the first one."""
        if self.losses is None or phase == MAIN:
            self.losses = _unsorted(plan.sum_losses(losses), plan.order)

    def _numbers(self, values: Sequence[float], dtype: torch.dtype) -> Tensor:
        numbers = torch.tensor(values, dtype=dtype, device=self._resident.device)
        return numbers if self._trainee.stacked else numbers[0]


def _stacked(leaf: Vector | Tensor, num_clients: int) -> Vector | Tensor:
    """Return a leaf with a client axis."""
    return expand(leaf, num_clients) if isinstance(leaf, Vector) else leaf


def _first_rows(given: tuple[Any, ...], active: int) -> tuple[Any, ...]:
    return tuple(active_rows(value, active) for value in given)


def _in_order(value: Any, order: Tensor | None) -> Any:
    """Return the rows of stacked Vectors and tensors in another order."""
    if order is None:
        return value
    if isinstance(value, tuple):
        return tuple(_in_order(item, order) for item in value)
    if isinstance(value, Mapping):
        return {key: _in_order(item, order) for key, item in value.items()}
    if isinstance(value, Vector):
        return value.rows(order) if value.stacked else value
    return value[order] if isinstance(value, Tensor) and value.dim() else value


def _unsorted(values: Sequence[Any], order: Tensor | None) -> list[Any]:
    """Return values in the order of the clients."""
    if order is None:
        return list(values)
    return [values[place] for place in order.argsort().tolist()]


def _sum_of_losses(model: ModelFunction, batch: Batch, weights: Any) -> dict[str, Tensor]:
    assert batch.sample_weights is not None, "total() gives them"
    losses = model.per_example(weights, batch) * batch.sample_weights
    return {"loss": losses.sum(), "examples": batch.sample_weights.sum()}
