"""StackTrainer: what clients do in a round, a stack of them in one computation.

Shapes: C clients of a stack, A those that still have steps to do, a prefix of it, T steps, B
examples of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simfl.client.batches import ReadBatch
from simfl.client.loss_given import LossGiven
from simfl.client.recipe import ClientRecipe
from simfl.client.trainer import to_outcome
from simfl.client.updates import (
    ClientRow,
    Outcome,
    StepLosses,
)
from simfl.data import FederatedDataset
from simfl.messages import Broadcast
from simfl.models import Batch, StackedModel, TorchModel
from simfl.optimizer import LocalOptimizer, Optimizer
from simfl.sampling import StepPlan
from simfl.seeding import derive_seed
from simfl.states import KeptState
from simfl.vector import Vector


class StackTrainer:
    """Trains up to ``recipe.stack`` clients at once, each to the numbers it would have alone.

    Args:
        recipe: the scenario's part of it.
        model: of one client.
        optimizer: of one client.
        dataset: which rows clients hold.
        read: makes batches of rows.
        device: where the model is.
        loss_given: finds what a loss of a batch is given; None for other losses.
    """

    def __init__(
        self,
        recipe: ClientRecipe,
        *,
        model: TorchModel,
        optimizer: Optimizer,
        dataset: FederatedDataset,
        read: ReadBatch,
        device: str,
        loss_given: LossGiven | None = None,
    ) -> None:
        self._recipe = recipe
        self._loss_given = loss_given
        self._model = StackedModel(model, recipe.stack)
        self._optimizer = LocalOptimizer(optimizer, stacked=True)
        self._dataset = dataset
        self._read_rows = read
        self._device = device

    def train(
        self, clients: Sequence[int], broadcast: Broadcast, states: Sequence[KeptState | None]
    ) -> Outcome:
        """Train clients that have a step to do each.

        Args:
            clients: [C] ids, those with more steps first.
            broadcast: what they start from.
            states: [C] what each client's optimizer has kept.

        Raises:
            NonFiniteUpdateError: if an update is not finite and the scenario says to raise.
            Exception: whatever a client's own code raises, without the client's id.
        """
        began = time.perf_counter()
        plan = self._plan(clients, broadcast.round)
        of_stack = None if self._loss_given is None else self._loss_given.of_stack
        given = of_stack and of_stack(clients, broadcast.weights)
        self._model.begin(broadcast.weights, len(clients))
        self._optimizer.begin(
            clients,
            round=broadcast.round,
            kept=states,
            aux=broadcast.aux,
            like=self._model.like,
        )
        losses_TC = self._run_steps(plan, clients, broadcast.round, given)
        self._optimizer.end_steps()
        delta = self._model.compute_delta(broadcast.weights)
        rows = self._rows(clients, plan, losses_TC, delta, time.perf_counter() - began)
        return to_outcome(self._recipe, self._optimizer, rows, delta, round=broadcast.round)

    def _plan(self, clients: Sequence[int], round: int) -> StepPlan:
        rows = [self._dataset.train_rows(client) for client in clients]
        seed = self._recipe.seed
        return self._recipe.work.plan_steps(rows, seed=seed, round=round, clients=clients)

    def _run_steps(
        self,
        plan: StepPlan,
        clients: Sequence[int],
        round: int,
        given: Mapping[str, Any] | None,
    ) -> Tensor:
        """Train; return the losses, 0 after a client's last step."""
        keys_C = self._keys(clients, round) if self._model.draws else None
        losses_TC = torch.zeros(plan.sizes.shape, device=self._device)
        for step, active in enumerate((plan.sizes > 0).sum(axis=1).tolist()):
            if active < self._model.num_active:
                self._model.narrow(active)
                self._optimizer.narrow(active)
            batch = self._read(plan.rows[step, :active], plan.sizes[step, :active])
            if keys_C is not None:
                self._model.seed_step(keys_C[:active], step)
            losses_A, gradients = self._model.compute_loss_and_gradients(
                batch, self._recipe.work.sclip, given=given
            )
            if self._recipe.work.sclip:
                gradients = self._over_batch_size(gradients, plan.sizes[step, :active].tolist())
            self._optimizer.apply_gradients(self._model, gradients)
            losses_TC[step, :active] = losses_A
        return losses_TC

    def _keys(self, clients: Sequence[int], round: int) -> Tensor:
        """Return the seed of each client's round; as ``ClientTrainer`` has it."""
        seed = self._recipe.seed
        draws = [derive_seed(seed, "model", round=round, client=client) for client in clients]
        return torch.tensor(draws, device=self._device)

    def _read(self, rows_AB: np.ndarray[Any, Any], sizes_A: np.ndarray[Any, Any]) -> Batch:
        """Read the examples of a step."""
        return weigh_ragged(self._read_rows(rows_AB[:, : int(sizes_A.max())]), sizes_A)

    def _over_batch_size(self, gradients: Vector, sizes_A: Sequence[int]) -> Vector:
        """Scale the means of clipped gradients by ``LocalWork.clipped_share``."""
        shares_A = [self._recipe.work.clipped_share(size) for size in sizes_A]
        if min(shares_A) == 1.0:
            return gradients
        return gradients * torch.tensor(shares_A, device=self._device)

    def _rows(
        self,
        clients: Sequence[int],
        plan: StepPlan,
        losses_TC: Tensor,
        delta: Vector,
        seconds: float,
    ) -> list[ClientRow]:
        losses = losses_TC.double().cpu().numpy()
        steps = plan.num_steps
        columns: list[np.ndarray[Any, Any]] = [
            np.asarray(clients),
            self._dataset.num_train_examples(clients),
            steps,
            plan.sizes.sum(axis=0),
            (losses * plan.sizes).sum(axis=0),
            losses[0],
            losses[steps - 1, np.arange(len(clients))],
            delta.norm().double().cpu().numpy(),
            seconds * steps / steps.sum(),
        ]
        return [
            ClientRow(client, examples, StepLosses(*of_steps), delta_norm=norm, seconds=share)
            for client, examples, *of_steps, norm, share in zip(
                *(column.tolist() for column in columns), strict=True
            )
        ]


def weigh_ragged(batch: Batch, sizes_A: np.ndarray[Any, Any]) -> Batch:
    """Give weight 0 to padding in short batches, and larger weights to their other examples.

    Args:
        batch: [A, B, ...], B the largest of the sizes.
        sizes_A: how many examples of each client are its own; they come first.
    """
    size = batch.targets.shape[1]
    if (sizes_A == size).all():
        return batch
    is_own = np.arange(size) < sizes_A[:, None]
    weights_AB = torch.from_numpy((is_own * (size / sizes_A[:, None])).astype(np.float32))
    return batch._replace(sample_weights=weights_AB.to(batch.targets.device))
