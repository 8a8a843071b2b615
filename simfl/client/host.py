"""The host on which any number of clients are trained, one at a time or in stacks.

Nothing here knows of Ray, and nothing writes to disk. What a chunk returns depends on its message,
the clients' kept states and the data alone, so that it can be run again anywhere.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from simfl.aggregation import Separate, TreeSum, merge_contributions
from simfl.client.batches import ReadBatch, reader_of
from simfl.client.own_models import OwnModels
from simfl.client.recipe import ClientRecipe, build_resident
from simfl.client.trainer import ClientTrainer
from simfl.client.updates import (
    ClientRow,
    Outcome,
    add_metric_sums,
    join_outcomes,
    to_columns,
)
from simfl.data import FederatedDataset
from simfl.errors import NonFiniteUpdateError, own_line
from simfl.messages import (
    STRAGGLER,
    Broadcast,
    Chunk,
    ChunkReport,
    ChunkResult,
    Contribution,
    EvaluationChunk,
    Node,
    Partial,
)
from simfl.models import Inputs, ModelFunction
from simfl.models.model import MetricSums
from simfl.states import Dropped, Kept, KeptRow, KeptState, Retained, count_kept_bytes
from simfl.vector import count_bytes, move

_KEPT: Final = 8 << 20
"""Bytes. glibc gives the end of its heap back to the system, which clears it for the next step,
where more is free there than twice the largest block that was ever freed on its own
(https://man7.org/linux/man-pages/man3/mallopt.3.html, M_MMAP_THRESHOLD). Small models have none,
but free some megabytes of activations in each step."""


class _Leaf(NamedTuple):
    """The clients of a chunk that are one stack, or a single one."""

    clients: Sequence[int]
    states: Sequence[KeptState | None]
    drawn: Sequence[int]
    """How many steps each makes, if that was drawn; empty otherwise."""

    def part(self, rows: slice) -> _Leaf:
        """Return some of them."""
        return _Leaf(self.clients[rows], self.states[rows], self.drawn[rows])


class ClientHost:
    """Trains and evaluates any client.

    Args:
        recipe: the scenario's part of it.
        dataset: the examples of all clients.
        device: where to train.
    """

    def __init__(
        self,
        recipe: ClientRecipe,
        dataset: FederatedDataset,
        *,
        device: str = "cpu",
    ) -> None:
        bytes(_KEPT)  # is freed at once
        self._recipe = recipe
        self._dataset = dataset
        self.device = device
        resident = build_resident(recipe, dataset, device=device)
        self._model, self._optimizer = resident.model, resident.optimizer
        self._read, self._spare = resident.read, resident.spare
        self._personal = resident.initial
        self._read_test: ReadBatch | None = None
        self._arrived: tuple[Broadcast, Broadcast] | None = None
        self._trainer = ClientTrainer(resident)
        self._own = OwnModels(recipe, self._trainer, self._model)

    def compute_as(self, other: ClientHost) -> None:
        """Take over from another host how its model is called faster.

        One of several threads cannot find it, as it takes the process's generators.
        """
        self._model.take_forms(other._model)

    def train_chunk(
        self, chunk: Chunk, broadcast: Broadcast, states: Sequence[KeptState | None]
    ) -> ChunkResult[Partial, KeptState]:
        """Train the clients of a chunk and add up what they contribute.

        Args:
            chunk: K clients; it begins where a stack does, and ends so too, or with the cohort.
            broadcast: what they start from.
            states: [K] what each client's optimizer has kept; None for a new one.

        Raises:
            ClientError: if a client's own code raises.
            NonFiniteUpdateError: if an update is not finite and the scenario says to raise.
            torch.cuda.OutOfMemoryError: if the device cannot hold what is trained.
        """
        began = time.perf_counter()
        broadcast = self._here(broadcast)
        tree = TreeSum[Contribution](chunk.cohort_size, self._merge)
        rows: list[ClientRow] = []
        for node, part in self._leaves(chunk):
            leaf = _Leaf(chunk.clients[part], states[part], chunk.num_steps[part])
            outcome = self._train_leaf(leaf, broadcast)
            tree.add_node(node, outcome.contribution)
            rows += outcome.rows
        retained: dict[int, Retained[KeptState]] = {row.client: row.retained for row in rows}
        if self.device != "cpu":  # of stacks they are there already
            retained = {
                client: one if isinstance(one, KeptRow) else move(one, "cpu")
                for client, one in retained.items()
            }
        nodes = move(tree.nodes, "cpu")
        seconds = time.perf_counter() - began
        return ChunkResult(
            report=ChunkReport(
                chunk.round,
                chunk.start,
                to_columns(rows),
                seconds,
                state_bytes=count_kept_bytes(retained.values()),
                keeping=tuple(c for c, state in retained.items() if isinstance(state, Kept)),
                partial_bytes=count_bytes(nodes),
            ),
            partial=Partial(chunk.start, chunk.cohort_size, nodes),
            states=retained,
        )

    def evaluate_chunk(
        self,
        chunk: EvaluationChunk,
        broadcast: Broadcast,
        states: Iterable[KeptState | None] = (),
    ) -> list[MetricSums]:
        """Evaluate the broadcast weights, or clients' own models.

        Args:
            chunk: what to evaluate.
            broadcast: the server's weights.
            states: for clients' own models, what each client has kept; empty: none has.

        Returns:
            One entry for each number in the chunk, in order; of clients' own models, one for each
            of the models that the chunk names.

        Raises:
            ClientError: if a client's own code raises while its own models are made.
        """
        broadcast = self._here(broadcast)
        with self._predicting(broadcast):
            if chunk.own:
                return self._evaluate_own(chunk, broadcast, states)
            return self._evaluate_common(chunk, broadcast)

    def _evaluate_own(
        self, chunk: EvaluationChunk, broadcast: Broadcast, states: Iterable[KeptState | None]
    ) -> list[MetricSums]:
        evaluate = partial(self._evaluate_client, trains=chunk.split == "training")
        return [
            sums
            for client, state in itertools.zip_longest(chunk.clients, states)
            for sums in self._own.evaluate(client, state, broadcast, chunk.own, evaluate)
        ]

    def _evaluate_common(self, chunk: EvaluationChunk, broadcast: Broadcast) -> list[MetricSums]:
        shared = self._recipe.algorithm.evaluated(broadcast.weights, broadcast.algorithm)
        weights = broadcast.weights | shared | self._personal
        self._model.set_weights(weights)
        evaluate = self._evaluate_test_batches if chunk.split == "test" else self._evaluate_clients
        sums, is_written = [], False
        for number, item in enumerate(chunk.items):  # whose results depend on no other's
            if is_written:
                self._model.set_weights(weights)
            self._model.held.restore()
            sums += evaluate(item)
            is_written = is_written or (number == 0 and not self._model.holds(weights))
        return sums

    def _predicting(self, broadcast: Broadcast) -> AbstractContextManager[None]:
        """Return the context to evaluate in, in which outputs are the algorithm's."""
        algorithm, model = self._recipe.algorithm, self._model
        if not algorithm.predicts:
            return nullcontext()

        def predict(inputs: Inputs) -> Any:
            weights = model.live_weights(model.shared_names)
            return algorithm.outputs(ModelFunction(model), weights, broadcast.algorithm, inputs)

        return model.predicting(predict)

    def _here(self, broadcast: Broadcast) -> Broadcast:
        """Return the broadcast on the device, where it is copied to once."""
        if self.device == "cpu":
            return broadcast
        if self._arrived is None or self._arrived[0] is not broadcast:
            self._arrived = broadcast, move(broadcast, self.device)
        return self._arrived[1]

    def _leaves(self, chunk: Chunk) -> Iterator[tuple[Node, slice]]:
        """Iterate over the chunk's stacks: the node of the reduction that each is, and its part."""
        size = self._recipe.stack
        height = (chunk.cohort_size - 1).bit_length()
        level = min(size.bit_length() - 1, height)
        for begin in range(0, len(chunk.clients), size):
            yield (level, (chunk.start + begin) >> level), slice(begin, begin + size)

    def _train_leaf(self, leaf: _Leaf, broadcast: Broadcast) -> Outcome:
        """Train a stack, and those of it one at a time that have no step to do."""
        if self._recipe.stack == 1:
            return self._train_singly(leaf, broadcast)
        work = self._recipe.work.taking(leaf.drawn) if leaf.drawn else self._recipe.work
        num_steps = work.num_steps(self._dataset.num_train_examples(leaf.clients))
        assert (np.diff(num_steps) <= 0).all(), "longest local work first"
        busy = int((num_steps > 0).sum())
        if busy == 0:
            return self._train_singly(leaf, broadcast)
        stack, idle = leaf.part(slice(busy)), leaf.part(slice(busy, None))
        try:
            work = work.taking(stack.drawn) if stack.drawn else work
            trained = self._trainer.train_stack(stack.clients, broadcast, stack.states, work)
        except (NonFiniteUpdateError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:
            return self._find_culprit(error, leaf, broadcast)
        return join_outcomes([trained, self._train_singly(idle, broadcast)], self._merge)

    def _find_culprit(self, error: Exception, leaf: _Leaf, broadcast: Broadcast) -> Outcome:
        """Train the clients of a failed stack one at a time, so that errors name the client."""
        outcome = self._train_singly(leaf, broadcast)
        reasons = [row.retained.reason for row in outcome.rows if isinstance(row.retained, Dropped)]
        if all(reason == STRAGGLER for reason in reasons):
            some = [*map(str, leaf.clients[:4]), *(["..."] if len(leaf.clients) > 4 else [])]
            warnings.warn(
                f"clients {', '.join(some)} fail together, but not one at a time: "
                f"{type(error).__name__}: {error}{own_line(error)}; set client.stack: 1",
                RuntimeWarning,
                stacklevel=2,
            )
        return outcome

    def _train_singly(self, leaf: _Leaf, broadcast: Broadcast) -> Outcome:
        """Train clients one after another."""
        each = [leaf.part(slice(row, row + 1)) for row in range(len(leaf.clients))]
        return join_outcomes([self._train_one(one, broadcast) for one in each], self._merge)

    def _train_one(self, leaf: _Leaf, broadcast: Broadcast) -> Outcome:
        """Train a client, unless it has drawn no work."""
        (client,), (state,), drawn = leaf
        if not drawn:
            return self._trainer.train(client, broadcast, state, self._recipe.work)
        num_examples = len(self._dataset.train_rows(client))
        if num_examples and not drawn[0]:
            return Outcome(None, [ClientRow(client, num_examples, retained=Dropped(STRAGGLER))])
        return self._trainer.train(client, broadcast, state, self._recipe.work.taking(drawn))

    def _merge(self, left: Contribution, right: Contribution) -> Contribution:
        aggregator = self._recipe.aggregator
        merged = merge_contributions(left, right, aggregator=aggregator, optimizer=self._optimizer)
        if aggregator.accepts_read_only and not isinstance(right.total, Separate):
            self._spare.give(right.total)
        return merged

    def _evaluate_test_batches(self, numbers: Sequence[int]) -> list[MetricSums]:
        test, size = self._dataset.test, self._recipe.evaluation_batch_size
        assert test is not None, "there is no test split"
        if self._read_test is None:
            self._read_test = reader_of(test, device=self.device)
        starts = [number * size for number in numbers]
        rows = [np.arange(start, min(start + size, len(test))) for start in starts]
        return [self._model.evaluate(self._read_test(rows_B)) for rows_B in rows]

    def _evaluate_clients(self, clients: Sequence[int]) -> list[MetricSums]:
        """Evaluate clients whose examples are one batch together, or one of any number."""
        if len(clients) == 1 or not self._recipe.evaluates_together:
            return [self._evaluate_client(client) for client in clients]
        rows = [self._dataset.evaluation_rows(client) for client in clients]
        batch = self._read(np.concatenate(rows))
        return self._model.evaluate_parts(batch, [len(own) for own in rows])

    def _evaluate_client(self, client: int, *, trains: bool = False) -> MetricSums:
        """Evaluate the model on what a client is evaluated on, or on what it trains on."""
        dataset = self._dataset
        rows = dataset.train_rows(client) if trains else dataset.evaluation_rows(client)
        size = self._recipe.evaluation_batch_size
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        return add_metric_sums([self._model.evaluate(self._read(rows_B)) for rows_B in batches])
