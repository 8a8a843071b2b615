"""ClientStack: a stack of clients, trained in one computation.

Shapes: C clients of the stack, A those that still have steps to do, a prefix of them, T steps, B
examples of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simfl.client.augmenting import Augmenter
from simfl.client.batches import weigh_ragged
from simfl.client.recipe import Resident
from simfl.client.steps import Order, Step, Steps
from simfl.client.trainee import Sums, Trainee
from simfl.client.updates import StepLosses
from simfl.models import Batch, ModelFunction, StackedModel
from simfl.models.model_function import split_given
from simfl.sampling import LocalWork
from simfl.seeding import derive_seed
from simfl.vector import Vector, to_device


class ClientStack(Trainee):
    """A stack of clients that have a step to do each, those with more steps first."""

    stacked = True

    def __init__(
        self, resident: Resident, stack: StackedModel, clients: Sequence[int], round: int
    ) -> None:
        super().__init__(resident, clients, round, stack)
        self._stack = stack

    @property
    def live(self) -> Vector:
        return self._stack.live_weights

    @property
    def like(self) -> Vector:
        return self._stack.like

    def load(self, base: Vector, start: Vector, *, in_place: bool) -> None:
        if len(base) > len(self._model.trainable):  # weights that are not trained are in the model
            self._model.set_weights(base)
        self._stack.begin(start, len(self.clients))

    def compute_delta(self, start: Vector) -> Vector:
        return self._stack.compute_delta(start)

    def steps(self, work: LocalWork, *, seed: int) -> Steps:
        return _StepsOfStack(
            self._resident, self._stack, work, self.clients, seed=seed, round=self.round
        )

    def narrow(self, active: int) -> None:
        self._stack.narrow(active)

    def _at(self, weights: Vector, step: Step) -> AbstractContextManager[None]:
        return self._stack.at(weights.select(self._model.trainable).expand(step.active))

    def _applied(
        self, function: Callable[..., Sums], given: tuple[Any, ...], loss_given: Mapping[str, Any]
    ) -> Callable[[Batch], Sums]:
        from torch.func import vmap

        values, dims = split_given((loss_given, *given), len(self.clients))

        def of_client(inputs: Any, targets: Tensor, by: Any, own: Any, *values: Any) -> Any:
            model = ModelFunction(self._model, given=own, is_mapped=True)
            return function(model, Batch(inputs, targets, by), *values)

        of_clients = vmap(of_client, in_dims=(0, 0, 0, *dims), randomness="error")
        return lambda batch: of_clients(*batch[:3], *values)

    def _all_examples(self) -> Iterator[Batch]:
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


class _StepsOfStack(Steps):
    """The steps of a stack; batches, and what the model draws, are of this seed."""

    def __init__(
        self,
        resident: Resident,
        stack: StackedModel,
        work: LocalWork,
        clients: Sequence[int],
        *,
        seed: int,
        round: int,
    ) -> None:
        self._resident, self._stack = resident, stack
        rows = [resident.dataset.train_rows(client) for client in clients]
        plan = work.plan_steps(rows, seed=seed, round=round, clients=clients)
        self._rows, self._sizes = plan.rows, plan.sizes
        if (np.diff(plan.num_steps) > 0).any():
            order = np.argsort(-plan.num_steps, kind="stable")
            self._rows, self._sizes = plan.rows[:, order], plan.sizes[:, order]
            self.order = Order(torch.from_numpy(order))
            clients = self.order.sort_list(clients)
        self.num_steps = (self._sizes > 0).sum(axis=0).tolist()
        self._augmented = Augmenter(
            resident.recipe.augment, seed=seed, round=round, clients=clients, stacked=True
        )
        self._keys_C: Tensor | None = None
        if stack.draws:
            draws = [derive_seed(seed, "model", round=round, client=c) for c in clients]
            self._keys_C = to_device(torch.tensor(draws), resident.device)

    def __iter__(self) -> Iterator[Step]:
        for index, active in enumerate((self._sizes > 0).sum(axis=1).tolist()):
            sizes_A = self._sizes[index, :active]
            rows_AB = self._rows[index, :active, : int(sizes_A.max())]
            batch = self._augmented(self._resident.read(rows_AB), index)
            batch = weigh_ragged(batch, sizes_A)
            if self._keys_C is not None:
                self._stack.seed_step(self._keys_C[:active], index)
            yield Step(active, batch, sizes_A.tolist())

    def sum_losses(self, losses: Sequence[Tensor]) -> list[StepLosses]:
        num_clients = self._sizes.shape[1]
        if not losses:
            return [StepLosses()] * num_clients
        losses_TC = torch.zeros(self._sizes.shape, device=losses[0].device, dtype=losses[0].dtype)
        for row_C, losses_A in zip(losses_TC, losses, strict=True):
            row_C[: len(losses_A)] = losses_A
        values = losses_TC.double().cpu().numpy()
        steps = np.asarray(self.num_steps)
        last = values[np.maximum(steps - 1, 0), np.arange(num_clients)]
        columns: list[np.ndarray[Any, Any]] = [
            steps,
            self._sizes.sum(axis=0),
            (values * self._sizes).sum(axis=0),
            np.where(steps > 0, values[0], np.nan),
            np.where(steps > 0, last, np.nan),
        ]
        return [StepLosses(*row) for row in zip(*(c.tolist() for c in columns), strict=True)]
