"""ClientTrainer: what a client does in a round, one client at a time."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from simfl.client.batches import ReadBatch
from simfl.client.recipe import ClientRecipe
from simfl.client.updates import (
    ClientRow,
    Outcome,
    SpareMemory,
    StepLosses,
    aux_values,
    count_sent_bytes,
    count_sums,
    is_finite,
    sum_losses,
)
from simfl.data import FederatedDataset
from simfl.errors import ClientError, NonFiniteUpdateError
from simfl.messages import NOT_FINITE, Broadcast, Contribution
from simfl.models import Model
from simfl.optimizer import Optimizer
from simfl.seeding import derive_seed, global_generators, torch_state
from simfl.states import Dropped, Kept, KeptState, Nothing


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
    ) -> None:
        self._recipe = recipe
        self._model = model
        self._optimizer = optimizer
        self._dataset = dataset
        self._read = read
        self._spare = spare
        self._device = device

    def train(self, client: int, broadcast: Broadcast, state: KeptState | None) -> Outcome:
        """Train a client; one whose own code raises ends the run or is left out.

        Raises:
            ClientError: if its own code raises and the scenario says to raise.
            NonFiniteUpdateError: likewise, if its update is not finite.
            torch.cuda.OutOfMemoryError: if the device is full, which is not the client's fault.
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
        self._model.set_weights(broadcast.weights)
        self._optimizer.begin_client(client=client, round=broadcast.round, kept=state)
        self._optimizer.process_aux_var(broadcast.aux)
        self._optimizer.start_round()
        losses = self._run_steps(client, broadcast.round)
        delta = self._model.compute_delta(broadcast.weights, into=self._spare.take())
        aux = self._optimizer.collect_aux_var()

        norm = float(delta.norm())
        num_examples = len(self._dataset.train_rows(client))
        row = ClientRow(client, num_examples, losses, delta_norm=norm)
        if not is_finite(delta, norm, aux):
            return Outcome(None, [refuse_or_drop(row, self._recipe, round=broadcast.round)])
        weight = self._recipe.weigh(row)
        total = self._recipe.aggregator.lift(delta, weight)
        kept = self._optimizer.end_client() if self._recipe.keep_state else None
        sums = count_sums(
            [row],
            delta_bytes=count_sent_bytes([delta]),
            aux_bytes=count_sent_bytes(aux_values(aux)),
        )
        row = row._replace(retained=Kept(kept) if kept else Nothing())
        return Outcome(Contribution(total, weight, aux, sums), [row])

    def _run_steps(self, client: int, round: int) -> StepLosses:
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
                loss, gradients = self._model.compute_loss_and_gradients(batch, work.sclip)
                if (share := work.clipped_share(len(rows_B))) != 1.0:
                    gradients = gradients * share
                self._optimizer.apply_gradients(self._model, gradients)
                losses.append(loss)
        return sum_losses(losses, [len(rows_B) for rows_B in batches])

    def _failed(self, client: int, round: int, error: Exception) -> Outcome:
        what = f"{type(error).__name__}: {error}"
        if self._recipe.on_failure == "drop":
            num_examples = len(self._dataset.train_rows(client))
            return Outcome(None, [ClientRow(client, num_examples, retained=Dropped(what))])
        raise ClientError(
            f"client {client} failed in round {round}: {what}",
            client=client,
            round=round,
            client_traceback=traceback.format_exc(),
        ) from error


def refuse_or_drop(row: ClientRow, recipe: ClientRecipe, *, round: int) -> ClientRow:
    """Return the row of a client whose update is not finite.

    Raises:
        NonFiniteUpdateError: if the scenario says to raise.
    """
    if recipe.on_nonfinite == "drop":
        return row._replace(retained=Dropped(NOT_FINITE))
    raise NonFiniteUpdateError(
        f"client {row.client} sent an update with NaN or infinite values in round {round}; "
        "lower client.optimizer.lrate, clip its gradients, or set client.on_nonfinite: drop"
    )


@contextmanager
def _seeded(seed: int, device: str, *, round: int, client: int) -> Iterator[None]:
    """Seed torch's global generators, from which layers of others draw, and put them back."""
    uses_cuda = torch.device(device).type == "cuda"
    with global_generators([torch.cuda.current_device()] if uses_cuda else []):
        torch.default_generator.set_state(torch_state(seed, "model", round=round, client=client))
        if uses_cuda:  # which uses all bits
            torch.cuda.manual_seed(derive_seed(seed, "model", round=round, client=client))
        yield
