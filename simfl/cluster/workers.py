"""The client actors, and how work is run on them until all of it is done."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import ray
from ray.exceptions import RayError

from simfl.cluster.failures import (
    explain,
    explain_full_memory,
    explain_stall,
    is_actor_loss,
    is_device_full,
    is_unbuilt,
)
from simfl.cluster.launch import Worker
from simfl.cluster.recovery import Attempts, Decision, Loss, StallWatch
from simfl.cluster.references import Ref
from simfl.cluster.remote_server import LOOK_S, NOTICE_S, RemoteServer
from simfl.engine import ChunkScheduler, Work, Workload
from simfl.errors import ClusterError, SimflError
from simfl.messages import Chunk, EvaluationChunk

W = TypeVar("W", Chunk, EvaluationChunk)
Start: TypeAlias = Callable[[Any, W], list[Ref]]
"""Starts a chunk on an actor; returns the references to its results, the small one first."""


@dataclass
class _Running(Generic[W]):
    """A chunk at an actor."""

    worker: int
    chunk: W
    work: Work
    refs: list[Ref]
    since: float
    stalled_s: float | None = None
    """How long it had run when its actor was killed for it; None: it was not."""


@dataclass(frozen=True)
class Ended(Generic[W]):
    """A chunk that has been run."""

    chunk: W
    result: Any
    """The first of its results, which is small."""
    refs: list[Ref]
    """References to the others."""
    worker: int
    retries: int
    """How often it has brought down an actor before."""


class ClientPool:
    """Client actors that are started again when they die, or retired when their GPU is full.

    Args:
        workers: by worker number.
        start_with: references to the arguments of ``start`` after the setup, the data first.
        workload: returns the amount of work in a chunk.
        server: polled for the actors' heartbeats while chunks are running.
        max_retries: how often a chunk may bring down its actor before the run ends.
        stall_limit_s: how long a chunk may take; None: learned from the others.
        start_timeout_s: how long all actors may be away at once.
        tell: is told of actors that are retired, a line each.
    """

    def __init__(
        self,
        workers: list[Worker],
        start_with: tuple[Ref, ...],
        *,
        workload: Workload,
        server: RemoteServer,
        max_retries: int,
        stall_limit_s: float | None,
        start_timeout_s: float,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.workers = workers
        self.retired: set[int] = set()
        """Those that are not started again."""
        self._start_with = start_with
        self.start_timeout_s = start_timeout_s
        self.returning: dict[Ref, int] = {}
        """Actors that have died and are being started again: when each answers, it is back."""
        self._max_retries = max_retries
        self.workload = workload
        self._watches: defaultdict[Hashable, StallWatch] = defaultdict(
            lambda: StallWatch(stall_limit_s)
        )
        self.server = server
        self.tell = tell
        self._former: _WorkLoop[Any] | None = None

    def run(self, scheduler: ChunkScheduler[W], start: Start[W]) -> Iterator[Ended[W]]:
        """Run all chunks; yield each as it ends.

        Raises:
            RayError: for anything but the death of an actor.
            RunError: if a chunk brings down its actor too often, or no actor comes back.
        """
        if self._former is not None:
            self._former.drain()
        for worker in self.returning.values():
            scheduler.suspend(worker)
        for worker in self.retired:
            scheduler.retire(worker)
        attempts = Attempts(max_retries=self._max_retries)
        loop = self._former = _WorkLoop(self, scheduler, start, attempts)
        return loop.run()

    def watch_of(self, chunk: Chunk | EvaluationChunk) -> StallWatch:
        """Return the watch for chunks of this kind.

        Training and evaluation on each split are timed separately, and so is each group, which has
        its own devices.
        """
        kind = chunk.split if isinstance(chunk, EvaluationChunk) else "train"
        return self._watches[kind, chunk.group]

    @property
    def members(self) -> list[Worker]:
        """Those that are there, or will be again."""
        return [worker for n, worker in enumerate(self.workers) if n not in self.retired]

    def start(self, worker: Worker) -> Ref:
        """Have an actor build its host, once it is there."""
        return worker.actor.start.remote(worker.setup, *self._start_with)

    def join(self, workers: Iterable[Worker], starting: Mapping[str, Ref]) -> None:
        """Take in actors.

        Args:
            workers: that have been launched.
            starting: by label, the calls by which some are started; they get work after that.
        """
        for worker in workers:
            if worker.label in starting:
                self.returning[starting[worker.label]] = len(self.workers)
            self.workers.append(worker)

    def call_back(self, worker: int) -> None:
        """Start an actor again that has died."""
        if worker not in self.returning.values() and worker not in self.retired:
            self.returning[self.start(self.workers[worker])] = worker

    def retire(self, worker: int) -> bool:
        """End an actor for good; return False if its group would have none left."""
        group = self.workers[worker].group
        if sum(member.group == group for member in self.members) < 2:
            return False
        self.retired.add(worker)
        ray.kill(self.workers[worker].actor)
        return True

    def await_members(self, least: Callable[[int], int]) -> None:
        """Wait until each group has so many actors that are there, before a round begins.

        Raises:
            ClusterError: if they do not come within ``start_timeout_s``.
        """
        deadline = time.monotonic() + self.start_timeout_s
        while missing := self._missing(least):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise _explain_missing(self, missing, least)
            ready, _ = ray.wait(list(self.returning), num_returns=1, timeout=min(left_s, LOOK_S))
            self.server.look()
            for ref in ready:
                self.is_back(ref)

    def _missing(self, least: Callable[[int], int]) -> list[int]:
        """Return the groups that have too few actors, and some to wait for."""
        away = set(self.returning.values()) | self.retired
        there = Counter(w.group for n, w in enumerate(self.workers) if n not in away)
        waited_for = {self.workers[n].group for n in self.returning.values()}
        return sorted(group for group in waited_for if there[group] < least(group))

    def is_back(self, ref: Ref) -> int | None:
        """Return the worker that has come back; None if it has died once more.

        Raises:
            RunError: if it cannot build its host.
        """
        worker = self.returning.pop(ref)
        try:
            ray.get(ref)
        except RayError as error:
            if not is_actor_loss(error):
                raise explain(error, doing=f"starting {self.workers[worker].label} again") from None
            # Until Ray has noticed the death, calls fail at once.
            time.sleep(NOTICE_S)
            self.call_back(worker)
            return None
        return worker

    def kill_stalled(self, oldest: dict[int, _Running[Any]]) -> None:
        """Kill actors whose oldest chunk is overdue; they count as lost then."""
        for worker, running in oldest.items():
            waited_s = time.monotonic() - running.since
            silent_s = self.server.beats.silent_s(self.workers[worker].label, since=running.since)
            watch = self.watch_of(running.chunk)
            if watch.is_overdue(running.work, ran_s=waited_s, silent_s=silent_s):
                ray.kill(self.workers[worker].actor, no_restart=False)
                running.stalled_s = running.stalled_s or waited_s
                running.since = time.monotonic()  # it dies when it does: no second kill meanwhile


class _WorkLoop(Generic[W]):
    """One pass over a scheduler's chunks."""

    def __init__(
        self, pool: ClientPool, scheduler: ChunkScheduler[W], start: Start[W], attempts: Attempts
    ) -> None:
        self._pool = pool
        self._scheduler: ChunkScheduler[W] = scheduler
        self._start: Start[W] = start
        self._attempts = attempts
        self._running: dict[Ref, _Running[W]] = {}
        self._idle_since: float | None = None
        self._looked = time.monotonic()

    def run(self) -> Iterator[Ended[W]]:
        while not self._scheduler.is_done:
            self._hand_out()
            self._require_somebody()
            waited = [*self._running, *self._pool.returning]
            ready, _ = ray.wait(waited, num_returns=1, timeout=LOOK_S)
            self._look()
            for ref in ready:
                if ref in self._pool.returning:
                    self._welcome(ref)
                elif (ended := self._finish(ref)) is not None:
                    yield ended

    def drain(self) -> None:
        """Wait for the chunks that an abandoned pass has left running on the actors.

        Otherwise their time would be counted as that of the actors' next chunks.
        """
        while self._running:
            ready, _ = ray.wait(list(self._running), num_returns=1, timeout=LOOK_S)
            self._look()
            for ref in ready:
                running = self._running.pop(ref)
                try:
                    ray.get(ref)
                except RayError as error:
                    if is_actor_loss(error):
                        self._pool.call_back(running.worker)
                self._restart_clock(running.worker)

    def _look(self) -> None:
        """Poll the server and check for overdue chunks, at intervals of ``LOOK_S``."""
        if time.monotonic() - self._looked >= LOOK_S:
            self._looked = time.monotonic()
            self._pool.server.look()
            self._pool.kill_stalled(self._oldest())

    def _hand_out(self) -> None:
        for worker, chunk in self._scheduler.assignments():
            work = self._pool.workload.of(chunk)
            refs = self._start(self._pool.workers[worker].actor, chunk)
            self._running[refs[0]] = _Running(worker, chunk, work, refs, time.monotonic())

    def _require_somebody(self) -> None:
        """Give up when all who could do the work have been away for too long."""
        if self._running:
            self._idle_since = None
            return
        self._idle_since = self._idle_since or time.monotonic()
        if time.monotonic() - self._idle_since > self._pool.start_timeout_s:
            away = sorted(self._pool.returning.values())
            raise ClusterError(
                f"{', '.join(self._pool.workers[n].label for n in away)} died and could not be "
                f"started again within {self._pool.start_timeout_s:g} s; see that the cluster has "
                "room for them"
            )

    def _finish(self, ref: Ref) -> Ended[W] | None:
        """Take in a chunk that has ended; None if it was lost and has to be run again."""
        running = self._running[ref]
        try:
            first = ray.get(ref)
        except RayError as error:
            if is_device_full(error):
                self._retire(ref)
            elif is_actor_loss(error):
                self._lose(ref, error)
            else:
                raise
            return None
        del self._running[ref]
        took_s = time.monotonic() - running.since
        self._pool.watch_of(running.chunk).learn(running.work, took_s)
        self._scheduler.finish(running.worker)
        self._restart_clock(running.worker)
        retries = self._attempts.count(Loss.CLIENT_ACTOR, _key(running.chunk))
        return Ended(running.chunk, first, running.refs[1:], running.worker, retries)

    def _retire(self, ref: Ref) -> None:
        """Go on with fewer actors, so that the others have more of the GPU's memory."""
        running = self._running.pop(ref)
        doing = _describe(running.chunk, self._pool.workers[running.worker].label)
        if running.worker not in self._pool.retired and not self._pool.retire(running.worker):
            raise explain_full_memory(doing=doing) from None
        self._scheduler.lose(running.worker, running.chunk)
        self._scheduler.retire(running.worker)
        left = sum(w.group == self._pool.workers[running.worker].group for w in self._pool.members)
        self._pool.tell(
            f"{doing}: its GPU's memory is full; it was ended, and {left} of its group go on"
        )

    def _lose(self, ref: Ref, error: RayError) -> None:
        running = self._running[ref]
        is_retired = running.worker in self._pool.retired
        is_to_blame = (
            not is_retired and self._oldest()[running.worker] is running and not is_unbuilt(error)
        )
        del self._running[ref]
        decision = self._attempts.lost(
            Loss.CLIENT_ACTOR, _key(running.chunk), is_to_blame=is_to_blame
        )
        if decision is Decision.ABORT:
            raise _explain_loss(running, self._pool.workers[running.worker].label, error) from None
        self._scheduler.lose(running.worker, running.chunk)
        self._scheduler.suspend(running.worker)
        self._pool.call_back(running.worker)

    def _welcome(self, ref: Ref) -> None:
        worker = self._pool.is_back(ref)
        if worker is not None:
            self._scheduler.resume(worker)

    def _oldest(self) -> dict[int, _Running[W]]:
        """Return each worker's chunk that runs; the others only wait there."""
        oldest: dict[int, _Running[W]] = {}
        for running in self._running.values():
            oldest.setdefault(running.worker, running)
        return oldest

    def _restart_clock(self, worker: int) -> None:
        """Count the next chunk's time from now on, since it only begins now."""
        if (running := self._oldest().get(worker)) is not None:
            running.since = time.monotonic()


def _explain_loss(running: _Running[Any], label: str, error: RayError) -> SimflError:
    doing = _describe(running.chunk, label)
    if running.stalled_s is None:
        return explain(error, doing=doing)
    return explain_stall(doing=doing, waited_s=running.stalled_s)


def _key(chunk: Chunk | EvaluationChunk) -> tuple[Any, ...]:
    return (chunk.start,) if isinstance(chunk, Chunk) else chunk.items


def _explain_missing(
    pool: ClientPool, groups: list[int], least: Callable[[int], int]
) -> ClusterError:
    away = [pool.workers[n] for n in sorted(pool.returning.values())]
    labels = ", ".join(worker.label for worker in away if worker.group == groups[0])
    return ClusterError(
        f"{labels} did not come back within {pool.start_timeout_s:g} s, and a round needs "
        f"{least(groups[0])} of its group; add nodes and go on with --resume auto"
    )


def _describe(chunk: Chunk | EvaluationChunk, label: str) -> str:
    if isinstance(chunk, EvaluationChunk):
        return f"evaluating on {label}"
    clients = ", ".join(map(str, chunk.clients))
    return f"round {chunk.round}, clients {clients} on {label}"
