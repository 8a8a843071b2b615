"""The inline engine: everything in this process, where a debugger can follow it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from simfl.checkpoint import Found, delete_unused_shards
from simfl.client import ClientHost
from simfl.engine.chunks import equal_chunks
from simfl.engine.engine import Cohort, Trained, commit_checkpoint, snapshot_of
from simfl.engine.process import peak_memory
from simfl.errors import ClusterError
from simfl.messages import (
    Chunk,
    ChunkResult,
    ChunkTrace,
    Contribution,
    EvaluationChunk,
    Partial,
    RoundPlan,
    RoundTrace,
    SaveOrder,
    Snapshot,
)
from simfl.models.model import MetricSums
from simfl.server import Server
from simfl.states import KeptState, Retained, StateTable, load_state, open_storage, write_shard
from simfl.vector import Vector


class InlineEngine:
    """Runs the server and client hosts in this process; the numbers are those of any cluster.

    Args:
        server: the run's server.
        hosts: by group, the host that trains its clients.
        chunk_size: the number of clients in a chunk; None: a chunk is all that a group trains.
        threads: torch's threads while the engine is open.
        location: the storage of checkpoints, and of states beyond the budget.
        state_memory: bytes of clients' states that may stay in memory.
    """

    num_actors = 1
    dashboard = None

    def __init__(
        self,
        server: Server,
        hosts: Sequence[ClientHost],
        *,
        chunk_size: int | None = None,
        threads: int = 1,
        location: str = "checkpoints",
        state_memory: int = 1 << 30,
    ) -> None:
        self._server = server
        self._hosts = hosts
        self._chunk_size = chunk_size
        self._location = location
        self._state_memory = state_memory
        self._states = StateTable[KeptState](location)
        self._initial = server.snapshot(1)
        self._previous_threads: int | None = torch.get_num_threads()
        torch.set_num_threads(threads)

    def open(self) -> None:
        """Do nothing: it trains in this process."""

    def start(self) -> Snapshot:
        """Return what the first round starts from."""
        return self._initial

    def put(self, snapshot: Snapshot) -> Snapshot:
        """Return the snapshot itself."""
        return snapshot

    def train(self, plan: RoundPlan, handle: Snapshot) -> Cohort:
        """Train chunk after chunk."""
        began = time.perf_counter()
        chunks = [
            chunk
            for part in plan.split()
            for chunk in equal_chunks(plan, part, self._chunk_size or max(1, len(plan.clients)))
        ]
        traces: list[ChunkTrace] = []
        retained: dict[int, Retained[KeptState]] = {}
        for chunk in chunks:
            result = self._train_chunk(chunk, handle)
            self._server.receive(result.partial)
            traces.append(ChunkTrace(result.report, actor="inline"))
            retained |= result.states
        return Cohort(plan, handle, tuple(traces), time.perf_counter() - began, retained)

    def end_round(self, cohort: Cohort) -> Trained:
        """Take the server's step."""
        began = time.perf_counter()
        report = self._server.end_round(cohort.plan)
        self._commit(cohort)
        following = self._server.snapshot(cohort.plan.round + 1)
        trace = RoundTrace(cohort.chunks, cohort.train_s, time.perf_counter() - began)
        return Trained(report, trace, following)

    def add_up(self, cohort: Cohort) -> Contribution | None:
        """Finish the sum."""
        total = self._server.add_up(cohort.plan)
        self._commit(cohort)
        return total

    def _commit(self, cohort: Cohort) -> None:
        num_bytes = sum(trace.report.state_bytes for trace in cohort.chunks)
        self._states.commit(cohort.results, num_bytes=num_bytes)
        if self._states.held_bytes > self._state_memory:
            self._spill(f"spill-{cohort.plan.round:06d}")

    def _train_chunk(self, chunk: Chunk, handle: Snapshot) -> ChunkResult[Partial, KeptState]:
        states = [self._load_state(client) for client in chunk.clients]
        try:
            return self._hosts[chunk.group].train_chunk(chunk, handle.broadcast, states)
        except torch.cuda.OutOfMemoryError as error:
            raise ClusterError(
                f"round {chunk.round}: the GPU's memory is full; lower client.stack, "
                "client.batch_size or the size of the model"
            ) from error

    def _load_state(self, client: int) -> KeptState | None:
        state = self._states.get(client)
        return None if state is None else load_state(state)

    def save(self, order: SaveOrder, handle: Snapshot) -> None:
        """Write the clients' states that have changed, then the checkpoint."""
        self._write_shards(f"round-{order.round:06d}")
        commit_checkpoint(
            self._location,
            order,
            handle,
            files=self._states.shards_with(()),
            shards=self._states.shards,
        )

    def flush(self) -> None:
        """Do nothing: ``save`` has written all when it returns."""

    def restore(self, found: Found) -> Snapshot:
        """Restore a checkpoint, or the start."""
        checkpoint = found.checkpoint
        if checkpoint is None:
            self._states.restore({}, ())
            self._server.restore(self._initial)
            return self._initial
        self._states.restore(checkpoint.states, found.shards)
        self._server.restore(snapshot_of(checkpoint))
        return self._server.snapshot(checkpoint.round + 1)

    def _spill(self, label: str) -> None:
        self._write_shards(label)
        in_use = {shard.name for shard in self._states.shards}
        delete_unused_shards(open_storage(self._location), in_use=in_use)

    def _write_shards(self, label: str) -> None:
        storage = open_storage(self._location)
        for plan in self._states.plan_shards(label):
            self._states.written(plan, write_shard(storage, plan.name, plan.holders))

    def evaluate(self, chunk: EvaluationChunk, handle: Snapshot) -> list[MetricSums]:
        """Evaluate item after item."""
        clients = chunk.clients if chunk.needs_states else []
        states = (self._load_state(client) for client in clients)
        return self._hosts[chunk.group].evaluate_chunk(chunk, handle.broadcast, states)

    def get_weights(self, handle: Snapshot) -> Vector:
        """Return the snapshot's weights."""
        return handle.broadcast.weights

    def peak_memory(self) -> dict[str, int | None]:
        """Return the peak of this process, which is the only one."""
        return {"driver": peak_memory(), "server": None, "client": None}

    def write_profiles(self, folder: Path) -> None:
        """Do nothing: there is no other process."""

    def describe(self) -> str:
        """Return where clients are trained."""
        return "in this process"

    def close(self) -> None:
        """Reset torch's number of threads."""
        if self._previous_threads is not None:
            torch.set_num_threads(self._previous_threads)
            self._previous_threads = None
