"""The steps of a training: which examples clients see at each, and what their losses add up to.

Shapes: C clients of a stack, A those that still have steps to do, a prefix of them, T steps, B
examples of a batch. Without a stack, C and A are 1, and there is no such axis.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from simfl.client.batches import weigh_ragged
from simfl.client.recipe import Resident
from simfl.client.updates import StepLosses, sum_losses
from simfl.models import Batch, StackedModel
from simfl.sampling import LocalWork
from simfl.seeding import derive_seed, global_generators, torch_state


class Step(NamedTuple):
    """A step of the clients that still have one to do."""

    active: int
    """A."""
    batch: Batch
    sizes: Sequence[int]
    """[A] how many examples of each client are its own."""


class Steps(ABC):
    """The steps of one training, or of one pass."""

    num_steps: Sequence[int]
    """[C] of each client, in the order in which they are trained."""
    order: Tensor | None = None
    """[C] the clients' indices in the order in which they are trained, longest first; None: as they
    are."""

    @abstractmethod
    def __iter__(self) -> Iterator[Step]:
        """Iterate over the steps, and seed what the model draws in each."""

    @abstractmethod
    def sum_losses(self, losses: Sequence[Tensor]) -> list[StepLosses]:
        """Return [C] the sums of the losses [A] of each step, by client."""

    def seeded(self) -> AbstractContextManager[None]:
        """Return the context to train in, in which torch's generators have the client's seed."""
        return nullcontext()


def steps_of_one(
    resident: Resident, work: LocalWork, client: int, *, seed: int, round: int
) -> Steps:
    """Return the steps of one client.

    Args:
        resident: what the host's clients use in turn.
        work: how much there is to do.
        client: its id.
        seed: of the batches, and of what the model draws.
        round: which round.
    """
    return _StepsOfOne(resident, work, client, seed=seed, round=round)


def steps_of_stack(
    resident: Resident,
    stack: StackedModel,
    work: LocalWork,
    clients: Sequence[int],
    *,
    seed: int,
    round: int,
) -> Steps:
    """Return the steps of a stack of clients; see ``steps_of_one``."""
    return _StepsOfStack(resident, stack, work, clients, seed=seed, round=round)


class _StepsOfOne(Steps):
    def __init__(
        self, resident: Resident, work: LocalWork, client: int, *, seed: int, round: int
    ) -> None:
        self._resident = resident
        self._at = {"round": round, "client": client}
        self._seed = seed
        rows = resident.dataset.train_rows(client)
        self._batches = work.draw_batches(rows, seed=seed, round=round, client=client)
        self.num_steps = [len(self._batches)]

    def __iter__(self) -> Iterator[Step]:
        model, device = self._resident.model, self._resident.device
        key = torch.tensor(derive_seed(self._seed, "model", **self._at), device=device)
        for index, rows_B in enumerate(self._batches):
            batch = self._resident.read(rows_B)
            model.seed_step(key, index)
            yield Step(1, batch, (len(rows_B),))

    def sum_losses(self, losses: Sequence[Tensor]) -> list[StepLosses]:
        return [sum_losses(losses, [len(rows_B) for rows_B in self._batches])]

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Seed torch's global generators, from which layers of others draw, and restore them."""
        uses_cuda = torch.device(self._resident.device).type == "cuda"
        with global_generators([torch.cuda.current_device()] if uses_cuda else []):
            torch.default_generator.set_state(torch_state(self._seed, "model", **self._at))
            if uses_cuda:  # which uses all bits
                torch.cuda.manual_seed(derive_seed(self._seed, "model", **self._at))
            yield


class _StepsOfStack(Steps):
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
            self.order = torch.from_numpy(order)
            clients = [clients[index] for index in order]
        self.num_steps = (self._sizes > 0).sum(axis=0).tolist()
        self._keys_C: Tensor | None = None
        if stack.draws:
            draws = [derive_seed(seed, "model", round=round, client=c) for c in clients]
            self._keys_C = torch.tensor(draws, device=resident.device)

    def __iter__(self) -> Iterator[Step]:
        for index, active in enumerate((self._sizes > 0).sum(axis=1).tolist()):
            sizes_A = self._sizes[index, :active]
            rows_AB = self._rows[index, :active, : int(sizes_A.max())]
            batch = weigh_ragged(self._resident.read(rows_AB), sizes_A)
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
