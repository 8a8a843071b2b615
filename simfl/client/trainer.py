"""ClientTrainer: what a client does in a round, one client at a time."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from simfl.client.batches import ReadBatch
from simfl.client.loss_given import LossGiven
from simfl.client.recipe import ClientRecipe
from simfl.client.updates import (
    ClientRow,
    Outcome,
    SpareMemory,
    StepLosses,
    aux_values,
    count_sent_bytes,
    count_sums,
    finite_rows,
    sum_losses,
)
from simfl.data import FederatedDataset
from simfl.errors import ClientError, NonFiniteUpdateError
from simfl.messages import NOT_FINITE, Broadcast, Contribution
from simfl.models import Model
from simfl.optimizer import LocalOptimizer, Optimizer
from simfl.seeding import derive_seed, global_generators, torch_state
from simfl.states import Dropped, Kept, KeptState
from simfl.vector import Vector


class ClientTrainer:
    """Trains any client on one resident model.

    Args:
        recipe: the scenario's part of it.
        model: overwritten with the broadcast weights for each client.
        optimizer: given each client's own state in turn.
        dataset: which rows clients hold.
        read: makes batches of rows.
        spare: memory for deltas.
        device: where the model is.
        loss_given: finds what a loss of a batch is given; None for other losses.
    """

    def __init__(
        self,
        recipe: ClientRecipe,
        *,
        model: Model,
        optimizer: Optimizer,
        dataset: FederatedDataset,
        read: ReadBatch,
        spare: SpareMemory,
        device: str,
        loss_given: LossGiven | None = None,
    ) -> None:
        self._recipe = recipe
        self._model = model
        self._loss_given = loss_given
        self._optimizer = LocalOptimizer(optimizer, stacked=False)
        self._dataset = dataset
        self._read = read
        self._spare = spare
        self._device = device

    def train(self, client: int, broadcast: Broadcast, state: KeptState | None) -> Outcome:
        """Train a client; an exception in its own code ends the run, or drops the client.

        Raises:
            ClientError: if its own code raises and the scenario says to raise.
            NonFiniteUpdateError: likewise, if its update is not finite.
            torch.cuda.OutOfMemoryError: if the device is full, which is no error of the client.
        """
        began = time.perf_counter()
        try:
            outcome = self._train(client, broadcast, state)
        except (NonFiniteUpdateError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:
            outcome = self._failed(client, broadcast.round, error)
        row = outcome.rows[0]._replace(seconds=time.perf_counter() - began)
        return replace(outcome, rows=[row])

    def _train(self, client: int, broadcast: Broadcast, state: KeptState | None) -> Outcome:
        """Do what a client does in a round: weights and aux in, steps, delta and aux out."""
        of_client = None if self._loss_given is None else self._loss_given.of_client
        given = of_client and of_client(client, broadcast.weights)
        self._model.set_weights(broadcast.weights)
        self._optimizer.begin((client,), round=broadcast.round, kept=(state,), aux=broadcast.aux)
        losses = self._run_steps(client, broadcast.round, given)
        delta = self._model.compute_delta(broadcast.weights, into=self._spare.take())
        num_examples = len(self._dataset.train_rows(client))
        row = ClientRow(client, num_examples, losses, delta_norm=float(delta.norm()))
        return to_outcome(self._recipe, self._optimizer, [row], delta, round=broadcast.round)

    def _run_steps(self, client: int, round: int, given: Mapping[str, Any] | None) -> StepLosses:
        """Train; return the losses of the steps."""
        seed, work, losses = self._recipe.seed, self._recipe.work, []
        rows = self._dataset.train_rows(client)
        batches = work.draw_batches(rows, seed=seed, round=round, client=client)
        draws = derive_seed(seed, "model", round=round, client=client)
        key = torch.tensor(draws, device=self._device)
        with _seeded(seed, self._device, round=round, client=client):
            for step, rows_B in enumerate(batches):
                batch = self._read(rows_B)
                self._model.seed_step(key, step)
                loss, gradients = self._model.compute_loss_and_gradients(
                    batch, work.sclip, given=given
                )
                if (share := work.clipped_share(len(rows_B))) != 1.0:
                    gradients = gradients * share
                self._optimizer.apply_gradients(self._model, gradients)
                losses.append(loss)
        return sum_losses(losses, [len(rows_B) for rows_B in batches])

    def _failed(self, client: int, round: int, error: Exception) -> Outcome:
        what = f"{type(error).__name__}: {error}"
        if self._recipe.work.on_failure == "drop":
            num_examples = len(self._dataset.train_rows(client))
            return Outcome(None, [ClientRow(client, num_examples, retained=Dropped(what))])
        raise ClientError(
            f"client {client} failed in round {round}: {what}",
            client=client,
            round=round,
            client_traceback=traceback.format_exc(),
        ) from error


def to_outcome(
    recipe: ClientRecipe,
    optimizer: LocalOptimizer,
    rows: Sequence[ClientRow],
    delta: Vector,
    *,
    round: int,
) -> Outcome:
    """Return what clients contribute and keep after their last steps.

    Args:
        recipe: the scenario's part of it.
        optimizer: of the clients, whose steps have ended.
        rows: [C] of the clients, not yet with what they keep; one of a single client.
        delta: theirs: a stack, or one client's. The contribution takes it over.
        round: which round.

    Raises:
        NonFiniteUpdateError: if an update is not finite and the scenario says to raise.
    """
    aux = optimizer.collect_aux_var()
    finite = finite_rows(delta, [row.delta_norm for row in rows], aux)
    checked = [
        row if is_finite else _refuse_or_drop(row, recipe, round=round)
        for row, is_finite in zip(rows, finite, strict=True)
    ]
    used = [index for index, is_finite in enumerate(finite) if is_finite]
    if not used:
        return Outcome(None, checked)
    used_rows = [rows[index] for index in used]
    weights = [recipe.weigh(row) for row in used_rows]
    sums = count_sums(
        used_rows,
        delta_bytes=len(used) * count_sent_bytes([delta], num_clients=len(rows)),
        aux_bytes=len(used) * count_sent_bytes(aux_values(aux), num_clients=len(rows)),
    )
    if delta.stacked:
        deltas = delta if len(used) == len(rows) else delta.rows(torch.tensor(used))
        total = recipe.aggregator.lift_stack(deltas, weights)
    else:
        total = recipe.aggregator.lift(delta, weights[0])
    merged = optimizer.merge_rows(aux, used)
    if recipe.work.keep_state:
        checked = _with_states(checked, optimizer.end([row.losses.num_steps for row in rows]))
    return Outcome(Contribution(total, sum(weights), merged, sums), checked)


def _with_states(rows: Sequence[ClientRow], states: Sequence[KeptState | None]) -> list[ClientRow]:
    """Return the rows with what clients keep that are not dropped."""
    return [
        row
        if state is None or isinstance(row.retained, Dropped)
        else row._replace(retained=Kept(state))
        for row, state in zip(rows, states, strict=True)
    ]


def _refuse_or_drop(row: ClientRow, recipe: ClientRecipe, *, round: int) -> ClientRow:
    """Return the row of a client whose update is not finite.

    Raises:
        NonFiniteUpdateError: if the scenario says to raise.
    """
    if recipe.work.on_nonfinite == "drop":
        return row._replace(retained=Dropped(NOT_FINITE))
    raise NonFiniteUpdateError(
        f"client {row.client} sent an update with NaN or infinite values in round {round}; "
        "lower client.optimizer.lrate, clip its gradients, or set client.on_nonfinite: drop"
    )


@contextmanager
def _seeded(seed: int, device: str, *, round: int, client: int) -> Iterator[None]:
    """Seed torch's global generators, from which layers of others draw, and restore them."""
    uses_cuda = torch.device(device).type == "cuda"
    with global_generators([torch.cuda.current_device()] if uses_cuda else []):
        torch.default_generator.set_state(torch_state(seed, "model", round=round, client=client))
        if uses_cuda:  # which uses all bits
            torch.cuda.manual_seed(derive_seed(seed, "model", round=round, client=client))
        yield
