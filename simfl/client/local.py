"""LocalRound: a client's round, or a stack's, as ``Algorithm.client`` sees it.

Shapes: C clients of a stack, A those that still have steps to do, a prefix of them. Without a
stack, there is no such axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from simfl.client.facts import RoundFacts
from simfl.client.personal import PersonalWeights
from simfl.client.scan import Scan
from simfl.client.steps import AS_THEY_ARE, Order, Steps
from simfl.client.updates import StepLosses
from simfl.errors import ConfigError
from simfl.models import Batch, ModelFunction
from simfl.models.model_function import Objective
from simfl.optimizer import LocalOptimizer, Optimizer
from simfl.seeding import derive_seed
from simfl.states import KeptState, State
from simfl.vector import Vector, rows_of

MAIN = ""
"""The phase of the round's main training."""


@dataclass(eq=False, repr=False)
class LocalRound(RoundFacts):
    """Implements ``simfl.algorithms.Local``, which documents the members that algorithms use."""

    optimizers: dict[str, LocalOptimizer] = field(default_factory=dict, init=False)
    """By phase, those that have trained and whose states are kept."""
    num_steps_of: dict[str, list[int]] = field(default_factory=dict, init=False)
    """[C] by phase, how many steps each client has taken."""
    losses: list[StepLosses] | None = field(default=None, init=False)
    """[C] those of the main training, or else of the first."""
    _trained: set[str] = field(default_factory=set, init=False)
    """The phases that have been trained."""
    _is_loaded: bool = field(default=False, init=False)
    _scan: Scan | None = field(default=None, init=False)
    """The pass that is being made."""

    @cached_property
    def personal(self) -> PersonalWeights:
        """The clients' personal weights, which each training changes."""
        names = self.resident.model.trainable
        return PersonalWeights(self.resident.initial, names, self.states, stacked=self.stacked)

    @cached_property
    def trainable(self) -> tuple[str, ...]:
        """The names of the shared weights that gradients are computed for."""
        return self.personal.without(self.trainee.like).names

    # -- training --------------------------------------------------------------------------

    def train(self, start: Vector, **options: Any) -> Vector:
        """Run the clients' Optimizer from some weights; return those it ends with."""
        order, optimizer = self._train(start, **options)
        end = self._end(order)
        if optimizer.wants_delta:
            optimizer.take_delta(start.select(self.trainable) - end.select(self.trainable))
        return end

    def train_delta(self, start: Vector, **options: Any) -> Vector:
        """Return ``start - train(start, ...)``."""
        whole = self.personal.fill_in(start)
        order, optimizer = self._train(start, **options)
        if order.rows is not None:
            return start - self._end(order)
        delta = self.personal.without(self.trainee.compute_delta(whole))
        if optimizer.wants_delta:
            optimizer.take_delta(delta)
        return delta

    def _end(self, order: Order) -> Vector:
        """Return a copy of the weights at the end of a training."""
        end = order.restore(self.personal.without(self.trainee.live).clone())
        self.trainee.end_training()
        return end

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
    ) -> tuple[Order, LocalOptimizer]:
        """Train; the trainee has the weights afterwards, in the order returned."""
        plan = self._plan(phase, epochs, steps)
        names = None if only is None else self._trainable(only, phase)
        loss_given = self._find_loss_given(plan.order)
        # Functions of others that are given the model might write to its weights.
        is_ours = type(self.recipe.algorithm).__module__.startswith("simfl.")
        is_ours = is_ours or (add is None and objective is None)
        in_place = names is None and is_ours and self.resident.loss_given is None
        self._load(plan.order.sort(start), plan.order, in_place=in_place)
        local = self._begin(phase, plan.order, names, optimizer)
        given = plan.order.sort(given)
        losses = self._take_steps(plan, local, names, add, objective, given, loss_given)
        self.trainee.narrow(len(self.states))
        if self.personal.values:
            self.personal.take(self.trainee.live, plan.order)
        local.end_steps(plan.order.back)
        if optimizer is None:
            self.optimizers[phase] = local
            self.num_steps_of[phase] = plan.order.restore_list(plan.num_steps)
        self._record(phase, plan, losses)
        return plan.order, local

    def _take_steps(
        self,
        plan: Steps,
        optimizer: LocalOptimizer,
        only: Sequence[str] | None,
        add: Callable[..., Vector] | None,
        objective: Objective | None,
        given: tuple[Any, ...],
        loss_given: Mapping[str, Any],
    ) -> list[Tensor]:
        """Take the steps of a training; return the losses [A] of each."""
        trainee, personal = self.trainee, self.personal
        whole = personal.fill_in_given(given, plan.order)
        model, losses = trainee.stepped(only), []
        with plan.seeded():
            for step in plan:
                if step.active < optimizer.num_active:
                    trainee.narrow(step.active)
                    optimizer.narrow(step.active)
                    given, whole = rows_of((given, whole), slice(step.active))
                loss, gradients = trainee.differentiate(step, objective, whole, loss_given)
                if only is not None:
                    gradients = gradients.select(only)
                if add is not None:
                    # What add() does in place would be done to the model.
                    term = add(personal.without(trainee.live).as_read_only(), *given)
                    gradients = personal.add(gradients, term)
                optimizer.apply_gradients(model, gradients)
                losses.append(loss)
        return losses

    def _begin(
        self, phase: str, order: Order, names: Sequence[str] | None, given: Optimizer | None
    ) -> LocalOptimizer:
        """Return the Optimizer of a phase, at the beginning of its training.

        Raises:
            ConfigError: if the phase has been trained in this round.
        """
        if phase in self._trained:
            raise ConfigError(
                f"algorithm {self.recipe.algorithm.name!r} trains the phase {phase!r} twice in a "
                "round; name the phase of the second training: train(..., phase='own')"
            )
        self._trained.add(phase)
        chosen = self.resident.optimizer if given is None else given
        exchanges = phase == MAIN and given is None
        if not exchanges:
            chosen = chosen.without_exchange(seed=self.seed)
        optimizer = LocalOptimizer(chosen, stacked=self.stacked)
        like = self.trainee.like
        states = self.states if order.rows is None else order.sort_list(self.states)
        if phase != MAIN or given is not None:
            states = [None if given else _of_phase(phase, state) for state in states]
        optimizer.begin(
            order.sort_list(self.trainee.clients),
            round=self.round,
            kept=states,
            aux=self.broadcast.aux if exchanges else {},
            like=like if names is None else like.select(names),
        )
        return optimizer

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
        scan = Scan(self.trainee, self.personal, plan, self._find_loss_given(plan.order))
        self._load(None)
        carry = self._with_client_axis(carry) if self.stacked else carry
        self._scan = scan
        carry = scan.run(step, carry, given, len(self.states))
        self._scan = None
        self._record(phase, plan, scan.losses)
        return carry

    def gradients(
        self,
        weights: Vector,
        batch: Batch,
        *,
        objective: Objective | None = None,
        given: tuple[Any, ...] = (),
    ) -> Vector:
        """Return the gradients of a batch's loss, for steps of ``scan``."""
        assert self._scan is not None, "gradients() is for the steps of scan()"
        return self._scan.gradients(weights, batch, objective, given)

    def loss(self, weights: Vector) -> Tensor:
        """Return the mean loss over all of the clients' examples."""
        sums = self.total(_sum_of_losses, weights)
        mean: Tensor = sums["loss"] / sums["examples"].clamp(min=1.0)
        return mean

    def total(self, function: Callable[..., Mapping[str, Tensor]], *given: Any) -> State:
        """Add up a function of batches over all of the clients' examples."""
        self._load(None)
        values = self.personal.fill_in_given(given)
        found = self.trainee.total(function, values, self._find_loss_given(AS_THEY_ARE))
        return {key: value for key, value in found.items() if key not in self.recipe.personal}

    # -- inside ----------------------------------------------------------------------------

    def _load(
        self, start: Vector | None, order: Order = AS_THEY_ARE, *, in_place: bool = False
    ) -> None:
        """Put weights into the model; None: at least those that are not trained."""
        if start is not None or not self._is_loaded:
            start = self.personal.fill_in(self.weights if start is None else start, order)
            self.trainee.load(self._all_weights, start, in_place=in_place)
            self._is_loaded = True

    def _find_loss_given(self, order: Order) -> Mapping[str, Any]:
        """Return what the loss needs besides a batch, of the clients in this order."""
        found, clients = self.resident.loss_given, self.trainee.clients
        if found is None:
            return {}
        start = self.personal.fill_in(self.weights, order)
        if not self.stacked:
            return found.of_client(clients[0], start)
        return found.of_stack(order.sort_list(clients), start)

    def _plan(self, phase: str, epochs: float | None, steps: int | None) -> Steps:
        work = self.work
        if epochs is not None or steps is not None:
            work = work.instead(epochs=epochs, steps=steps)
        seed = self.seed if phase == MAIN else derive_seed(self.seed, f"phase {phase}")
        return self.trainee.steps(work, seed=seed)

    def _trainable(self, only: Iterable[str], phase: str) -> tuple[str, ...]:
        """Return the names that a phase trains; the main one always trains personal weights."""
        wanted = frozenset([only] if isinstance(only, str) else only)
        trainable = self.resident.model.trainable
        if not wanted & trainable.keys():
            raise ConfigError(
                f"algorithm {self.recipe.algorithm.name!r} trains only {sorted(wanted)}, none of "
                "which is a trained weight of the model; local.names(layers) are those of layers"
            )
        also = frozenset(self.recipe.personal if phase == MAIN else ())
        return tuple(name for name in trainable if name in wanted | also)

    def _record(self, phase: str, plan: Steps, losses: Sequence[Tensor]) -> None:
        """Keep the losses of the main phase, or else of the first one."""
        if self.losses is None or phase == MAIN:
            self.losses = plan.order.restore_list(plan.sum_losses(losses))


def _of_phase(phase: str, state: KeptState | None) -> KeptState | None:
    """Return what a client has kept of a phase."""
    return state if phase == MAIN or state is None else state.phases.get(phase)


def _sum_of_losses(model: ModelFunction, batch: Batch, weights: Any) -> dict[str, Tensor]:
    assert batch.sample_weights is not None, "total() gives them"
    losses = model.per_example(weights, batch) * batch.sample_weights
    return {"loss": losses.sum(), "examples": batch.sample_weights.sum()}
