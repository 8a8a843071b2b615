"""One client, or a stack of them: weights, batches and gradients behind one interface.

Shapes: C clients of a stack, A those that still have steps to do, a prefix of them, B
examples of a batch. Without a stack, C and A are 1, and there is no such axis.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simfl.client.recipe import Resident
from simfl.client.steps import Step, Steps, steps_of_one, steps_of_stack
from simfl.models import Batch, ModelFunction, StackedModel, TorchModel
from simfl.models.model_function import Objective, as_mappings, split_given
from simfl.optimizer.pipeline import SteppedModel
from simfl.sampling import LocalWork
from simfl.vector import Scalar, Vector


class Trainee(ABC):
    """One client or a stack of them on a resident model.

    Args:
        resident: what the clients use.
        clients: [C] ids.
        round: which round.
    """

    stacked: bool

    def __init__(self, resident: Resident, clients: Sequence[int], round: int) -> None:
        self._resident = resident
        self._model = resident.model
        self._max_norm = resident.recipe.work.sclip
        self.clients = tuple(clients)
        self.round = round

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The names of the weights that training may change."""

    @property
    @abstractmethod
    def live(self) -> Vector:
        """These weights of the A active clients, not copied."""

    @property
    @abstractmethod
    def like(self) -> Vector:
        """The trainable weights of one client, not copied."""

    @abstractmethod
    def load(self, base: Vector, start: Vector) -> None:
        """Start all C clients from some weights; those that ``start`` lacks are of ``base``."""

    @abstractmethod
    def compute_delta(self, start: Vector) -> Vector:
        """Return start minus the weights of all C clients, in memory of its own."""

    @abstractmethod
    def stepped(self, only: Collection[str] | None) -> SteppedModel:
        """Return the model whose weights an optimizer updates: all, or those with these names."""

    @abstractmethod
    def steps(self, work: LocalWork, *, seed: int) -> Steps:
        """Return the steps of a training."""

    @abstractmethod
    def differentiate(
        self,
        batch: Batch,
        objective: Objective | None,
        given: tuple[Any, ...],
        loss_given: Mapping[str, Any],
        at: Vector | None = None,
    ) -> tuple[Tensor, Vector]:
        """Return the losses [A] of a batch, detached, and the gradients; at other weights if given.

        Args:
            batch: of the A active clients.
            objective: what is differentiated; None: the scenario's loss.
            given: what the objective needs besides.
            loss_given: what the scenario's loss needs besides; of all C clients.
            at: trainable weights; None: those of the trainee.
        """

    @abstractmethod
    def total(
        self,
        function: Callable[..., Mapping[str, Tensor]],
        given: tuple[Any, ...],
        loss_given: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        """Add up a function of batches over all examples; see ``Local.total``."""

    @abstractmethod
    def narrow(self, active: int) -> None:
        """Train only the first so many clients from now on."""

    def clip_share(self, step: Step) -> Scalar | None:
        """Return the factors [A] for means of clipped gradients; None: all are 1.

        See ``LocalWork.clipped_share``.
        """
        shares = [self._resident.recipe.work.clipped_share(size) for size in step.sizes]
        if min(shares) == 1.0:
            return None
        return torch.tensor(shares, device=self._resident.device) if self.stacked else shares[0]


def one_client(resident: Resident, client: int, round: int) -> Trainee:
    """Return a client on the model itself."""
    return _OneClient(resident, (client,), round)


def client_stack(
    resident: Resident, stack: StackedModel, clients: Sequence[int], round: int
) -> Trainee:
    """Return a stack of clients that have a step to do each, those with more steps first."""
    return _ClientStack(resident, stack, clients, round)


# -- one client --------------------------------------------------------------------------------


class _OneClient(Trainee):
    """One client, on the model itself."""

    stacked = False

    @property
    def names(self) -> tuple[str, ...]:
        return self._model.shared_names

    @property
    def live(self) -> Vector:
        return self._model.live_weights(self.names)

    @property
    def like(self) -> Vector:
        return self._model.live_weights(self._model.trainable)

    def load(self, base: Vector, start: Vector) -> None:
        self._model.set_weights(base | start)

    def compute_delta(self, start: Vector) -> Vector:
        return self._model.compute_delta(start, into=self._resident.spare.take())

    def narrow(self, active: int) -> None:
        assert active == 1, "there is one client"

    def stepped(self, only: Collection[str] | None) -> SteppedModel:
        if only is None:
            return self._model
        return _Part(lambda: self.live.select(only))

    def steps(self, work: LocalWork, *, seed: int) -> Steps:
        return steps_of_one(self._resident, work, self.clients[0], seed=seed, round=self.round)

    def differentiate(
        self,
        batch: Batch,
        objective: Objective | None,
        given: tuple[Any, ...],
        loss_given: Mapping[str, Any],
        at: Vector | None = None,
    ) -> tuple[Tensor, Vector]:
        if at is not None:
            self._model.set_weights(at.select(self._model.trainable), trainable=True)
        return _differentiate(self._model, self._max_norm, batch, objective, given, loss_given)

    def total(
        self,
        function: Callable[..., Mapping[str, Tensor]],
        given: tuple[Any, ...],
        loss_given: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        self._model.enter_evaluation()
        model = ModelFunction(self._model, given=as_mappings(loss_given))
        values = tuple(map(as_mappings, given))
        rows = self._resident.dataset.train_rows(self.clients[0])
        size = self._resident.recipe.evaluation_batch_size
        total: dict[str, Tensor] = {}
        # Without examples, an empty batch still gives the shapes.
        for start in range(0, max(len(rows), 1), size):
            batch = self._resident.read(rows[start : start + size])
            ones = torch.ones(len(batch.targets), device=self._resident.device)
            with torch.no_grad():
                found = function(model, batch._replace(sample_weights=ones), *values)
            _add(total, found)
        return total


# -- a stack -----------------------------------------------------------------------------------


class _ClientStack(Trainee):
    """A stack of clients that have a step to do each, those with more steps first."""

    stacked = True

    def __init__(
        self, resident: Resident, stack: StackedModel, clients: Sequence[int], round: int
    ) -> None:
        super().__init__(resident, clients, round)
        self._stack = stack

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._model.trainable)

    @property
    def live(self) -> Vector:
        return self._stack.live_weights

    @property
    def like(self) -> Vector:
        return self._stack.like

    def load(self, base: Vector, start: Vector) -> None:
        if len(base) > len(self.names):  # weights that are not trained are in the model
            self._model.set_weights(base)
        self._stack.begin(start, len(self.clients))

    def compute_delta(self, start: Vector) -> Vector:
        return self._stack.compute_delta(start)

    def stepped(self, only: Collection[str] | None) -> SteppedModel:
        if only is None:
            return self._stack
        return _Part(lambda: self.live.select(only))

    def narrow(self, active: int) -> None:
        self._stack.narrow(active)

    def steps(self, work: LocalWork, *, seed: int) -> Steps:
        return steps_of_stack(
            self._resident, self._stack, work, self.clients, seed=seed, round=self.round
        )

    def differentiate(
        self,
        batch: Batch,
        objective: Objective | None,
        given: tuple[Any, ...],
        loss_given: Mapping[str, Any],
        at: Vector | None = None,
    ) -> tuple[Tensor, Vector]:
        other: AbstractContextManager[None] = nullcontext()
        if at is not None:
            other = self._stack.at(expand(at.select(self.names), len(batch.targets)))
        with other:
            return _differentiate(self._stack, self._max_norm, batch, objective, given, loss_given)

    def total(
        self,
        function: Callable[..., Mapping[str, Tensor]],
        given: tuple[Any, ...],
        loss_given: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        from torch.func import vmap

        self._model.enter_evaluation()
        values, dims = split_given((loss_given, *given), len(self.clients))

        def of_client(inputs: Any, targets: Tensor, by: Any, own: Any, *values: Any) -> Any:
            model = ModelFunction(self._model, given=own, is_mapped=True)
            return function(model, Batch(inputs, targets, by), *values)

        total: dict[str, Tensor] = {}
        run = vmap(of_client, in_dims=(0, 0, 0, *dims), randomness="error")
        for batch in self._all_examples():
            with torch.no_grad():
                _add(total, run(batch.inputs, batch.targets, batch.sample_weights, *values))
        return total

    def _all_examples(self) -> Iterator[Batch]:
        """Read the examples [C, B], in order; weights are 0 for padding and 1 otherwise."""
        rows = [self._resident.dataset.train_rows(client) for client in self.clients]
        size = self._resident.recipe.evaluation_batch_size
        for start in range(0, max(map(len, rows)), size):
            parts = [own[start : start + size] for own in rows]
            width = max(map(len, parts))
            # Padded with the client's own rows: weight 0 times another's overflow would be NaN.
            padded = [
                np.concatenate([part, np.repeat(own[:1], width - len(part))])
                for part, own in zip(parts, rows, strict=True)
            ]
            is_own = np.arange(width) < np.array([len(part) for part in parts])[:, None]
            weights = torch.from_numpy(is_own.astype(np.float32)).to(self._resident.device)
            yield self._resident.read(np.stack(padded))._replace(sample_weights=weights)


# -- shared ------------------------------------------------------------------------------------


def _differentiate(
    model: TorchModel | StackedModel,
    max_norm: float | None,
    batch: Batch,
    objective: Objective | None,
    given: tuple[Any, ...],
    loss_given: Mapping[str, Any],
) -> tuple[Tensor, Vector]:
    if objective is None:
        return model.compute_loss_and_gradients(batch, max_norm, given=loss_given)
    return model.compute_objective(
        objective, batch, given, loss_given=loss_given, max_norm=max_norm
    )


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


def expand(vector: Vector, num_clients: int) -> Vector:
    """Return a Vector of each of C clients: views, unless it is a stack already."""
    if vector.stacked:
        return vector
    return Vector({n: t.expand(num_clients, *t.shape) for n, t in vector.items()}, stacked=True)


def _add(total: dict[str, Tensor], found: Mapping[str, Tensor]) -> None:
    for key, value in found.items():
        total[key] = total[key] + value if key in total else value
