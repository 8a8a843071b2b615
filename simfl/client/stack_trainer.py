"""StackTrainer: what clients do in a round, a stack of them in one computation.

Shapes: C clients of a stack, A those that still have steps to do, a prefix of it, T steps, B
examples of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simfl.client.batches import ReadBatch
from simfl.client.recipe import ClientRecipe
from simfl.client.trainer import refuse_or_drop
from simfl.client.updates import (
    ClientRow,
    Outcome,
    StepLosses,
    aux_values,
    count_sent_bytes,
    count_sums,
)
from simfl.client.work import StepPlan
from simfl.data import FederatedDataset
from simfl.messages import Broadcast, Contribution
from simfl.models import Batch, StackedModel, TorchModel
from simfl.optimizer import Optimizer, StackedOptimizer
from simfl.seeding import derive_seed
from simfl.states import Dropped, Kept, KeptState, Nothing
from simfl.vector import Vector, is_finite


class StackTrainer:
    """Trains up to ``recipe.stack`` clients at once, each to the numbers it would have alone.

    Args:
        recipe: the scenario's part of it.
        model: of one client.
        optimizer: of one client.
        dataset: which rows clients hold.
        read: makes batches of rows.
        device: where the model is.
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
    ) -> None:
        self._recipe = recipe
        self._model = StackedModel(model, recipe.stack)
        self._optimizer = StackedOptimizer(optimizer)
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
            Exception: whatever a client's own code raises; which client's, it does not say.
        """
        began = time.perf_counter()
        plan = self._plan(clients, broadcast.round)
        self._model.begin(broadcast.weights, len(clients))
        self._optimizer.begin(
            clients,
            round=broadcast.round,
            kept=states,
            aux=broadcast.aux,
            like=self._model.like,
        )
        losses_TC = self._run_steps(plan, clients, broadcast.round)
        self._optimizer.end_round()
        delta = self._model.compute_delta(broadcast.weights)
        rows = self._rows(clients, plan, losses_TC, delta, time.perf_counter() - began)
        return self._outcome(rows, delta, round=broadcast.round)

    def _plan(self, clients: Sequence[int], round: int) -> StepPlan:
        rows = [self._dataset.train_rows(client) for client in clients]
        seed = self._recipe.seed
        return self._recipe.work.plan_steps(rows, seed=seed, round=round, clients=clients)

    def _run_steps(self, plan: StepPlan, clients: Sequence[int], round: int) -> Tensor:
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
                batch, self._recipe.work.sclip
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

    def _outcome(self, rows: list[ClientRow], delta: Vector, *, round: int) -> Outcome:
        aux = self._optimizer.collect_aux_var()
        finite_rows = _finite_rows(delta, [row.delta_norm for row in rows], aux)
        if not all(finite_rows):
            rows = [
                row if finite else refuse_or_drop(row, self._recipe, round=round)
                for row, finite in zip(rows, finite_rows, strict=True)
            ]
        rows = self._with_states(rows)
        used = [index for index, finite in enumerate(finite_rows) if finite]
        if not used:
            return Outcome(None, rows)
        used_rows = [rows[index] for index in used]
        weights = [self._recipe.weigh(row) for row in used_rows]
        deltas = delta if len(used) == len(rows) else delta.rows(torch.tensor(used))
        aux_bytes = count_sent_bytes(aux_values(aux), num_clients=len(rows))
        delta_bytes = count_sent_bytes([delta], num_clients=len(rows))
        contribution = Contribution(
            total=self._recipe.aggregator.lift_stack(deltas, weights),
            weight=sum(weights),
            aux=self._optimizer.merge_rows(aux, used),
            sums=count_sums(
                used_rows,
                delta_bytes=len(used) * delta_bytes,
                aux_bytes=len(used) * aux_bytes,
            ),
        )
        return Outcome(contribution, rows)

    def _with_states(self, rows: list[ClientRow]) -> list[ClientRow]:
        """Return the rows with what the optimizer keeps of those clients that are not dropped."""
        if not self._recipe.keep_state:
            return rows
        kept = self._optimizer.end_clients([row.losses.num_steps for row in rows])
        return [
            row
            if isinstance(row.retained, Dropped)
            else row._replace(retained=Kept(state) if state else Nothing())
            for row, state in zip(rows, kept, strict=True)
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


def _finite_rows(
    delta: Vector, norms: Sequence[float], aux: dict[str, dict[str, Any]]
) -> list[bool]:
    """Say of each client whether no number of what it sends is NaN or infinite."""
    rows = np.isfinite(norms)
    if not rows.all():  # numbers whose square overflows are finite all the same
        rows = delta.is_finite().cpu().numpy()
    for value in aux_values(aux):
        rows = rows & is_finite(value).cpu().numpy()
    finite: list[bool] = rows.tolist()
    return finite
