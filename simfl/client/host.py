"""The host on which any number of clients are trained, and what one client does in a round.

Nothing here knows of Ray, and nothing writes to disk. What a chunk returns depends on its message,
the clients' kept states and the data alone, so that it can be run again anywhere.
"""

from __future__ import annotations

import copy
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from simfl.aggregation import Aggregator, TreeSum, merge_contributions
from simfl.client.batches import read_batch
from simfl.client.updates import (
    ClientRow,
    StepLosses,
    add_metric_sums,
    is_finite,
    sum_losses,
    to_columns,
)
from simfl.client.work import LocalWork
from simfl.data import FederatedDataset
from simfl.errors import ClientError, NonFiniteUpdateError
from simfl.messages import (
    Broadcast,
    Chunk,
    ChunkReport,
    ChunkResult,
    Contribution,
    EvaluationChunk,
    Partial,
)
from simfl.models import Batch, DataShape, Loss, Metric, Model, ModelSpec, TorchModel
from simfl.models.metrics import as_metrics
from simfl.models.model import MetricSums
from simfl.optimizer import KeptState, Optimizer
from simfl.seeding import derive_seed
from simfl.vector import count_bytes, move

__all__ = ["ClientHost", "ClientRecipe", "Weighting"]

Weighting = Literal["examples", "steps", "uniform"]
"""What a client's delta is weighted with in the mean."""


@dataclass(frozen=True)
class ClientRecipe:
    """All that a client host is made from, but for the data; it travels to the actors."""

    spec: ModelSpec
    shape: DataShape
    loss: Loss
    metrics: tuple[Metric, ...] | None
    """Measured beside the loss; None: what suits the loss."""
    optimizer: Optimizer
    aggregator: Aggregator
    work: LocalWork
    seed: int
    weighting: Weighting = "examples"
    keep_state: bool = True
    """Whether a client's optimizer state lasts from round to round."""
    on_failure: Literal["raise", "drop"] = "raise"
    """What is done about a client whose own code raises."""
    on_nonfinite: Literal["raise", "drop"] = "raise"
    """What is done about an update with NaN or infinite values."""
    evaluation_batch_size: int = 512

    def build_metrics(self) -> tuple[Metric, ...]:
        """Return what is measured beside the loss."""
        return as_metrics(self.loss.default_metrics if self.metrics is None else self.metrics)

    def build(self, dataset: FederatedDataset, *, device: str = "cpu") -> ClientHost:
        """Build a host on this process's device."""
        module = self.spec.build(self.shape)
        model = TorchModel(module, self.loss, metrics=self.build_metrics()).to(device)
        optimizer = copy.deepcopy(self.optimizer)
        optimizer.seed = self.seed
        return ClientHost(self, model=model, optimizer=optimizer, dataset=dataset, device=device)


class ClientHost:
    """Trains and evaluates any client, one after the other, on one resident model.

    Args:
        recipe: the scenario's part of it.
        model: overwritten with the broadcast weights for each client.
        optimizer: given each client's own state in turn.
        dataset: the examples of all clients.
        device: where the model is.
    """

    def __init__(
        self,
        recipe: ClientRecipe,
        *,
        model: Model,
        optimizer: Optimizer,
        dataset: FederatedDataset,
        device: str = "cpu",
    ) -> None:
        self._recipe = recipe
        self._model = model
        self._optimizer = optimizer
        self._dataset = dataset
        self._device = device

    def train_chunk(
        self, chunk: Chunk, broadcast: Broadcast, states: Sequence[KeptState | None]
    ) -> ChunkResult:
        """Train the clients of a chunk and add up what they contribute.

        Args:
            chunk: K clients.
            broadcast: what they start from.
            states: [K] what each client's optimizer has kept; None for a new one.

        Raises:
            ClientError: if a client's own code raises.
            NonFiniteUpdateError: if an update is not finite and the scenario says to raise.
        """
        started = time.perf_counter()
        broadcast = move(broadcast, self._device)
        tree = TreeSum[Contribution](chunk.cohort_size, self._merge)
        rows, kept = [], []
        for offset, (client, state) in enumerate(zip(chunk.clients, states, strict=True)):
            began = time.perf_counter()
            contribution, row, new_state = self._train_guarded(client, broadcast, state)
            tree.add(chunk.start + offset, contribution)
            rows.append(replace(row, seconds=time.perf_counter() - began))
            kept.append(new_state)
        seconds = time.perf_counter() - started
        return ChunkResult(
            report=ChunkReport(
                chunk.round, chunk.start, to_columns(rows), seconds, count_bytes(kept)
            ),
            partial=Partial(chunk.round, chunk.start, chunk.cohort_size, move(tree.nodes, "cpu")),
            states=tuple(move(kept, "cpu")),
        )

    def evaluate_chunk(self, chunk: EvaluationChunk, broadcast: Broadcast) -> list[MetricSums]:
        """Evaluate the broadcast weights; one entry per item of the chunk, in its order."""
        self._model.set_weights(move(broadcast.weights, self._device))
        evaluate = self._evaluate_test_batch if chunk.split == "test" else self._evaluate_client
        return [evaluate(item) for item in chunk.items]

    def _train_guarded(
        self, client: int, broadcast: Broadcast, state: KeptState | None
    ) -> tuple[Contribution | None, ClientRow, KeptState | None]:
        try:
            return self._train_client(client, broadcast, state)
        except NonFiniteUpdateError:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            if self._recipe.on_failure == "drop":
                num_examples = len(self._dataset.train_rows(client))
                return None, ClientRow(client, num_examples, dropped=what), state
            raise ClientError(
                f"client {client} failed in round {broadcast.round}: {what}",
                client=client,
                round=broadcast.round,
                client_traceback=traceback.format_exc(),
            ) from error

    def _train_client(
        self, client: int, broadcast: Broadcast, state: KeptState | None
    ) -> tuple[Contribution | None, ClientRow, KeptState | None]:
        """Do what a client does in a round: weights and aux in, steps, delta and aux out."""
        self._model.set_weights(broadcast.weights)
        self._optimizer.begin_client(client=client, round=broadcast.round, kept=state)
        self._optimizer.process_aux_var(broadcast.aux)
        self._optimizer.start_round()
        losses = self._run_steps(client, broadcast.round)
        delta = self._model.compute_delta(broadcast.weights)
        aux = self._optimizer.collect_aux_var()

        num_examples = len(self._dataset.train_rows(client))
        norm = float(delta.norm())
        row = ClientRow(client, num_examples, losses, delta_norm=norm)
        if not is_finite(delta, norm, aux):
            return None, self._drop(row, broadcast.round), state
        contribution = Contribution(
            total=self._recipe.aggregator.lift(delta, self._weight(row)),
            weight=self._weight(row),
            aux=aux,
            sums={
                "clients": 1,
                "examples": num_examples,
                "steps": losses.num_steps,
                "seen": losses.num_seen,
                "loss": losses.total,
                "bytes": count_bytes([delta, aux]),
            },
        )
        kept = self._optimizer.end_client() if self._recipe.keep_state else None
        return contribution, row, kept

    def _weight(self, row: ClientRow) -> float:
        by = {"examples": row.num_examples, "steps": row.losses.num_steps, "uniform": 1}
        return float(by[self._recipe.weighting])

    def _run_steps(self, client: int, round: int) -> StepLosses:
        """Train; return the losses of the steps."""
        recipe, losses, sizes = self._recipe, [], []
        rows = self._dataset.train_rows(client)
        with _seeded(derive_seed(recipe.seed, "model", round=round, client=client), self._device):
            for rows_B in recipe.work.batches(rows, seed=recipe.seed, round=round, client=client):
                batch = self._read(rows_B)
                loss, gradients = self._model.compute_loss_and_gradients(batch, recipe.work.sclip)
                self._optimizer.apply_gradients(self._model, gradients)
                losses.append(loss)
                sizes.append(len(rows_B))
        return sum_losses(losses, sizes)

    def _drop(self, row: ClientRow, round: int) -> ClientRow:
        if self._recipe.on_nonfinite == "drop":
            return replace(row, dropped="not finite")
        raise NonFiniteUpdateError(
            f"client {row.client} sent an update with NaN or infinite values in round {round}; "
            "lower client.optimizer.lrate, clip its gradients, or set client.on_nonfinite: drop"
        )

    def _merge(self, left: Contribution, right: Contribution) -> Contribution:
        return merge_contributions(
            left, right, aggregator=self._recipe.aggregator, optimizer=self._optimizer
        )

    def _evaluate_test_batch(self, number: int) -> MetricSums:
        assert self._dataset.test is not None, "there is no test split"
        size = self._recipe.evaluation_batch_size
        rows = np.arange(number * size, min((number + 1) * size, len(self._dataset.test)))
        return self._model.evaluate(read_batch(self._dataset.test, rows, device=self._device))

    def _evaluate_client(self, client: int) -> MetricSums:
        rows = self._dataset.evaluation_rows(client)
        size = self._recipe.evaluation_batch_size
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        return add_metric_sums([self._model.evaluate(self._read(rows_B)) for rows_B in batches])

    def _read(self, rows_B: np.ndarray[Any, Any]) -> Batch:
        return read_batch(self._dataset.train, rows_B, device=self._device)


@contextmanager
def _seeded(seed: int, device: str) -> Iterator[None]:
    """Seed what dropout and its like draw from, torch's global generators, and put them back."""
    uses_cuda = torch.device(device).type == "cuda"
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if uses_cuda else []):
        # Not torch.manual_seed: without CUDA it formats the call stack each time.
        torch.default_generator.manual_seed(seed)
        if uses_cuda:
            torch.cuda.manual_seed(seed)
        yield
