"""The inline engine: everything in this process, where a debugger can follow it."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

import torch

from simfl.checkpoint import Found, delete_unused_shards
from simfl.client import ClientHost
from simfl.engine.chunks import cut_evaluation, equal_chunks, guided_chunks
from simfl.engine.engine import Cohort, Trained, commit_checkpoint, snapshot_of
from simfl.engine.process import peak_memory
from simfl.engine.threads import Done, Threads
from simfl.errors import ClusterError
from simfl.messages import (
    Chunk,
    ChunkResult,
    ChunkTrace,
    CohortPart,
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

_Result: TypeAlias = ChunkResult[Partial, KeptState]

TRIED: Final = 2
"""How many stacks, or items of an evaluation, show how long steps are. Of these the first one does
not count, in which some things happen for the first time."""

SHARES_A_THREAD: Final = 4
"""Into how many shares for each thread an evaluation is cut."""


@dataclass(frozen=True)
class MoreHosts:
    """What it takes to train in several threads, each on hosts of its own."""

    build: Callable[[], Sequence[ClientHost]]
    """Builds the hosts of a thread, by group."""
    most: int
    """How many threads there may be."""
    num_steps: Callable[[Chunk | EvaluationChunk], float]
    """Returns how many steps a chunk takes, one after the other."""


class InlineEngine:
    """Runs the server and client hosts in this process; the numbers are those of any cluster.

    Args:
        server: the run's server.
        hosts: by group, the host that trains its clients.
        more: what it takes to train in several threads; None: the caller's trains all clients.
        chunk_size: the number of clients in a chunk; None: that of all that a group trains, or what
            evens out the work of several threads.
        threads: torch's threads while the engine is open.
        location: the storage of checkpoints, and of states beyond the budget.
        state_memory: bytes of clients' states that may stay in memory.
    """

    dashboard = None
    series_length = 1

    def __init__(
        self,
        server: Server,
        hosts: Sequence[ClientHost],
        *,
        more: MoreHosts | None = None,
        chunk_size: int | None = None,
        threads: int = 1,
        location: str = "checkpoints",
        state_memory: int = 1 << 30,
    ) -> None:
        self._server = server
        self._by_thread = [hosts]
        self._more = more
        self._threads = Threads(1)
        if more is not None:
            self._threads = Threads(
                more.most, inner=threads, num_steps=more.num_steps, stopped=self._by_thread.clear
            )
        self.num_actors = 1
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
        """Train chunk after chunk, or several at a time."""
        began = time.perf_counter()
        self.num_actors = 1
        ended: list[tuple[ChunkTrace, Mapping[int, Retained[KeptState]]]] = []

        def receive(done: Done[Chunk, _Result]) -> None:
            self._server.receive(done.result.partial)
            actor = "inline" if done.thread is None else f"inline-{done.thread}"
            ended.append((ChunkTrace(done.result.report, actor), done.result.states))

        for part in plan.split():
            self._train_part(plan, part, handle, receive)
        ended.sort(key=lambda one: one[0].report.start)
        traces = tuple(trace for trace, _ in ended)
        retained = {client: state for _, states in ended for client, state in states.items()}
        return Cohort(plan, handle, traces, time.perf_counter() - began, retained)

    def _train_part(
        self,
        plan: RoundPlan,
        part: CohortPart,
        handle: Snapshot,
        receive: Callable[[Done[Chunk, _Result]], None],
    ) -> None:
        """Train a group's part of a cohort."""

        def train(thread: int, chunk: Chunk) -> _Result:
            return self._train_chunk(self._host(thread, chunk.group), chunk, handle)

        kind: Hashable = "train", part.group
        if self._threads.must_try(kind):
            cut = min(part.begin + TRIED * part.stack, part.end)
            first = equal_chunks(plan, replace(part, end=cut), part.stack)
            part = replace(part, begin=cut, start=part.start + cut - part.begin)
            self._threads.do(first, train, receive, kind=kind, skipped=1)
        num_threads = self._prepare_threads(kind)
        self.num_actors = max(self.num_actors, num_threads)
        if num_threads > 1 and self._chunk_size is None:
            chunks = guided_chunks(plan, part, num_threads)
        else:
            chunks = equal_chunks(plan, part, self._chunk_size or max(1, part.end - part.begin))
        self._threads.do(chunks, train, receive, kind=kind, num_threads=num_threads)

    def end_round(self, cohort: Cohort) -> Trained:
        """Take the server's step."""
        began = time.perf_counter()
        report = self._server.end_round(cohort.plan)
        self._commit(cohort)
        following = self._server.snapshot(cohort.plan.round + 1)
        seconds = cohort.train_s, time.perf_counter() - began
        trace = RoundTrace(cohort.chunks, *seconds, self.num_actors)
        return Trained(report, trace, following)

    def run(
        self, plans: Sequence[RoundPlan], handle: Snapshot, *, following: Sequence[RoundPlan] = ()
    ) -> list[Trained]:
        """Run the first round."""
        return [self.end_round(self.train(plans[0], handle))]

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

    def _train_chunk(self, host: ClientHost, chunk: Chunk, handle: Snapshot) -> _Result:
        states = [self._load_state(client) for client in chunk.clients]
        try:
            return host.train_chunk(chunk, handle.broadcast, states)
        except torch.cuda.OutOfMemoryError as error:
            raise ClusterError(
                f"round {chunk.round}: the GPU's memory is full; lower client.stack, "
                "client.batch_size or the size of the model"
            ) from error

    def _prepare_threads(self, kind: Hashable) -> int:
        """Return how many threads do work of this kind; each of them has its hosts."""
        number = self._threads.number(kind)
        try:
            for thread in range(number):
                self._host(thread, 0)
        except Exception:  # there is no memory for them, or something of the user's has no copy
            self._threads.stay_alone()
            return 1
        first, *others = self._by_thread[:number]
        for hosts in others:
            for host, known in zip(hosts, first, strict=True):
                host.compute_as(known)
        return number

    def _host(self, thread: int, group: int) -> ClientHost:
        """Return a thread's host of a group; those of further threads are built when first used."""
        if thread == len(self._by_thread):
            assert self._more is not None, "there is one thread"
            self._by_thread.append(self._more.build())
        return self._by_thread[thread][group]

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
        """Evaluate item after item, or several at a time."""
        sums: dict[EvaluationChunk, list[MetricSums]] = {}

        def evaluate(thread: int, share: EvaluationChunk) -> list[MetricSums]:
            clients = share.clients if share.needs_states else []
            states = (self._load_state(client) for client in clients)
            host = self._host(thread, share.group)
            return host.evaluate_chunk(share, handle.broadcast, states)

        def take(done: Done[EvaluationChunk, list[MetricSums]]) -> None:
            sums[done.task] = done.result

        kind: Hashable = chunk.split, chunk.own, chunk.group
        first, rest = list[EvaluationChunk](), chunk
        if self._threads.must_try(kind):
            first = cut_evaluation(replace(chunk, items=chunk.items[:TRIED]), 1)
            rest = replace(chunk, items=chunk.items[TRIED:])
            self._threads.do(first, evaluate, take, kind=kind, skipped=1)
        num_threads = self._prepare_threads(kind)
        number = num_threads * SHARES_A_THREAD if num_threads > 1 else 1
        shares = cut_evaluation(rest, max(1, -(-len(rest.items) // number)))
        self._threads.do(shares, evaluate, take, kind=kind, num_threads=num_threads)
        return [found for share in (*first, *shares) for found in sums[share]]

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
