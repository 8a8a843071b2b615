"""One client, or a stack of them: weights, steps and gradients behind one interface.

``one_client.py`` and ``client_stack.py`` implement it.

Shapes: C clients of a stack, A those that still have steps to do, a prefix of them. Without a
stack, both are 1, and there is no such axis.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor

from simfl.client.accumulation import (
    MicroBatch,
    accumulated,
    micro_batches,
    require_mean_objective,
)
from simfl.client.recipe import Resident
from simfl.client.steps import Step, Steps
from simfl.models import Batch, StackedModel, TorchModel
from simfl.models.model_function import Objective
from simfl.optimizer.pipeline import SteppedModel
from simfl.sampling import LocalWork
from simfl.vector import Scalar, Vector, to_device

Sums: TypeAlias = Mapping[str, Tensor]
"""What a function of a batch adds up over examples, by name."""


class Trainee(ABC):
    """One client or a stack of them on a resident model.

    Args:
        resident: what the clients use.
        clients: [C] ids.
        round: which round.
        trained: computes losses and gradients, and has the weights that an optimizer updates.
    """

    stacked: bool

    def __init__(
        self,
        resident: Resident,
        clients: Sequence[int],
        round: int,
        trained: TorchModel | StackedModel,
    ) -> None:
        self._resident = resident
        self._model = resident.model
        self._trained = trained
        self.clients = tuple(clients)
        self.round = round

    # -- weights ---------------------------------------------------------------------------

    @property
    @abstractmethod
    def live(self) -> Vector:
        """The weights of the A active clients that training may change, not copied."""

    @property
    @abstractmethod
    def like(self) -> Vector:
        """The trainable weights of one client, not copied."""

    @abstractmethod
    def load(self, base: Vector, start: Vector, *, in_place: bool) -> None:
        """Start all C clients from some weights.

        Args:
            base: all weights.
            start: those that differ from ``base``.
            in_place: whether the weights may be read where they are until the first step, since
                nothing but the model and an optimizer has to do with them.
        """

    @abstractmethod
    def compute_delta(self, start: Vector) -> Vector:
        """Return start minus the weights of all C clients, in memory of its own.

        The training is over: the weights are undefined afterwards.
        """

    def end_training(self) -> None:
        """Let go of what ``load`` was given; the weights are undefined afterwards."""
        return

    def stepped(self, only: Collection[str] | None) -> SteppedModel:
        """Return the model whose weights an optimizer updates: all, or those with these names."""
        return self._trained if only is None else _Part(lambda: self.live.select(only))

    # -- steps -----------------------------------------------------------------------------

    @abstractmethod
    def steps(self, work: LocalWork, *, seed: int) -> Steps:
        """Return the steps of a training."""

    @abstractmethod
    def narrow(self, active: int) -> None:
        """Train only the first so many clients from now on."""

    def differentiate(
        self,
        step: Step,
        objective: Objective | None,
        given: tuple[Any, ...],
        loss_given: Mapping[str, Any],
        at: Vector | None = None,
    ) -> tuple[Tensor, Vector]:
        """Return the losses [A] of a step, detached, and the gradients, clipped if they are to be.

        Args:
            step: of the A active clients.
            objective: what is differentiated; None: the scenario's loss.
            given: what the objective needs besides.
            loss_given: what the scenario's loss needs besides; of all C clients.
            at: trainable weights; None: those of the trainee.
        """
        model, work = self._trained, self._resident.recipe.work

        def of(batch: Batch) -> tuple[Tensor, Vector]:
            if objective is None:
                return model.compute_loss_and_gradients(batch, work.sclip, given=loss_given)
            return model.compute_objective(
                objective, batch, given, loss_given=loss_given, max_norm=work.sclip
            )

        def of_part(part: MicroBatch) -> tuple[Tensor, Vector]:
            with model.in_micro_batch(part.before, part.size, by_example=bool(work.sclip)):
                return of(part.batch)

        if work.accumulate > 1 and objective is not None:
            require_mean_objective(self._resident.recipe.algorithm, self._model.loss)
        with nullcontext() if at is None else self._at(at, step):
            if work.accumulate == 1:
                loss, gradients = of(step.batch)
            else:
                loss, gradients = accumulated(self._micro_batches(step.batch), of_part)
        share = self._clipped_share(step) if work.sclip else None
        return loss, gradients if share is None else gradients * share

    def _micro_batches(self, batch: Batch) -> Iterator[MicroBatch]:
        work = self._resident.recipe.work
        size = work.batch_size or batch.targets.shape[1 if self.stacked else 0]
        size = -(-size // work.accumulate)
        return micro_batches(batch, size, self._model.loss, stacked=self.stacked)

    @abstractmethod
    def _at(self, weights: Vector, step: Step) -> AbstractContextManager[None]:
        """Return the context in which the active clients have these trainable weights."""

    def _clipped_share(self, step: Step) -> Scalar | None:
        """Return the factors [A] for means of clipped gradients; None: all are 1.

        See ``LocalWork.clipped_share``.
        """
        shares = [self._resident.recipe.work.clipped_share(size) for size in step.sizes]
        if min(shares) == 1.0:
            return None
        return to_device(torch.tensor(shares), self._resident.device) if self.stacked else shares[0]

    # -- passes over all examples ----------------------------------------------------------

    def total(
        self,
        function: Callable[..., Sums],
        given: tuple[Any, ...],
        loss_given: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        """Add up a function of batches over all examples; see ``Local.total``."""
        self._model.enter_evaluation()
        of_batch = self._applied(function, given, loss_given)
        total: dict[str, Tensor] = {}
        for batch in self._all_examples():
            with torch.no_grad():
                found = of_batch(batch)
            for key, value in found.items():
                total[key] = total[key] + value if key in total else value
        return total

    @abstractmethod
    def _applied(
        self,
        function: Callable[..., Sums],
        given: tuple[Any, ...],
        loss_given: Mapping[str, Any],
    ) -> Callable[[Batch], Sums]:
        """Return the function of a batch of all C clients, and nothing else."""

    @abstractmethod
    def _all_examples(self) -> Iterator[Batch]:
        """Read the clients' examples, in order; sample weights are 1, and 0 for padding."""


class _Part:
    """Some of the weights, as the model that an optimizer updates.

    Args:
        live: returns the weights themselves, of the active clients.
    """

    def __init__(self, live: Callable[[], Vector]) -> None:
        self._live = live

    def get_weights(self, trainable: bool) -> Vector:
        assert trainable, "only trainable weights are updated"
        return self._live().clone()

    def apply_updates(self, updates: Vector) -> None:
        self.apply_scaled_updates(updates, 1.0)

    def apply_scaled_updates(self, updates: Vector, scale: Scalar) -> None:
        live = self._live()
        if isinstance(scale, Tensor):
            updates, scale = updates * scale, 1.0
        torch._foreach_add_(list(live.tensors), [updates[name] for name in live], alpha=scale)
