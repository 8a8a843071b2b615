"""The chunk scheduler: which worker gets which chunk. It decides, and does not act.

Where a chunk runs and when has no part in the result, so the scheduler is free to follow whoever
is idle.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from simfl.messages import Chunk, ChunkReport, RoundPlan

__all__ = ["ChunkScheduler", "Pace", "guided_chunks", "split_cohort"]

W = TypeVar("W")
"""A unit of work: a chunk of clients to train, or of items to evaluate."""

HANDED_OUT = 0.8
"""The share of the work that is left which the next chunk of every worker may take together."""

WORTH_A_CALL_S = 0.1
"""How much work in a call makes up for what the call itself costs, a few milliseconds."""

UNEVEN = 8
"""Equal parts may differ by about one in so many."""

IN_FLIGHT = 2
"""Chunks at a worker: one that runs, and one whose arguments are fetched meanwhile."""


class Pace:
    """Learns how long a step takes, and so how much work is worth a call."""

    def __init__(self) -> None:
        self._seconds_per_step: float | None = None

    def learn(self, plan: RoundPlan, reports: Sequence[ChunkReport]) -> None:
        """Take in a round that has ended."""
        num_steps = sum(plan.num_steps) or len(plan.clients)
        self._seconds_per_step = sum(report.seconds for report in reports) / num_steps

    @property
    def least_work(self) -> float:
        """How many steps a chunk should have; 0 until a round has been seen."""
        return WORTH_A_CALL_S / self._seconds_per_step if self._seconds_per_step else 0.0


def guided_chunks(plan: RoundPlan, num_workers: int, *, least_work: float = 0.0) -> list[Chunk]:
    """Cut the cohort into contiguous chunks, large ones first and ever smaller ones to the end.

    Each is one whole subtree of the reduction, so that an actor sends one partial for it: few
    calls and few partials while there is much to do, and small chunks to even out the end, when
    the workers have turned out to be of different speed. All workers' next chunks are cut from the
    same share of what is left, as in factoring (Hummel, Schonberg and Flynn, 1992,
    https://doi.org/10.1145/135226.135232). What would be too little work for small chunks is cut
    into equal ones, one for each worker.

    Args:
        plan: of the round.
        num_workers: how many there are.
        least_work: steps below which a chunk costs more than it evens out.

    >>> plan = RoundPlan(1, tuple(range(10)))
    >>> [len(chunk.clients) for chunk in guided_chunks(plan, num_workers=2)]
    [4, 4, 1, 1]
    >>> [len(chunk.clients) for chunk in guided_chunks(plan, num_workers=2, least_work=5)]
    [5, 5]
    """
    num_clients = len(plan.clients)
    work = np.concatenate([[0], np.cumsum(plan.num_steps or np.ones(num_clients))])
    ends: list[int] = [0]
    share = 0.0
    while (start := ends[-1]) < num_clients:
        if (len(ends) - 1) % num_workers == 0:
            fair = (work[-1] - work[start]) / num_workers
            if (1 - HANDED_OUT) * fair < least_work:
                ends += _equal_ends(work, start, num_workers, smallest=plan.stack)
                break
            share = HANDED_OUT * fair
        size = _subtree_size(work, start, share, smallest=plan.stack)
        ends.append(min(start + size, num_clients))
    return _chunks(plan, ends)


def _equal_ends(
    work: np.ndarray[Any, Any], start: int, num_parts: int, *, smallest: int
) -> list[int]:
    """Return where to cut the rest into parts of equal work, at large subtrees if it is all one."""
    num_left = len(work) - 1 - start
    grain = max(smallest, 1 << max(0, (num_left // num_parts // UNEVEN).bit_length() - 1))
    goals = work[start] + (work[-1] - work[start]) * np.arange(1, num_parts) / num_parts
    cuts = grain * np.round(np.searchsorted(work, goals) / grain).astype(int)
    return sorted({int(cut) for cut in cuts if start < cut < len(work) - 1} | {len(work) - 1})


def _chunks(plan: RoundPlan, ends: Sequence[int]) -> list[Chunk]:
    return [
        Chunk(plan.round, start, plan.clients[start:end], len(plan.clients))
        for start, end in itertools.pairwise(ends)
    ]


def _subtree_size(work: np.ndarray[Any, Any], start: int, share: float, *, smallest: int) -> int:
    """Return the size of the largest subtree that begins here and is no more work than that."""
    size = smallest
    while (
        start % (2 * size) == 0
        and start + 2 * size < len(work)
        and work[start + 2 * size] - work[start] <= share
    ):
        size *= 2
    return size


def split_cohort(plan: RoundPlan, size: int) -> list[Chunk]:
    """Cut the cohort into contiguous chunks of whole stacks; the last one may be smaller.

    Args:
        plan: of the round.
        size: clients a chunk, at least; rounded up to whole stacks.
    """
    num_clients, size = len(plan.clients), -(-size // plan.stack) * plan.stack
    return _chunks(plan, [*range(0, num_clients, size), num_clients])


class ChunkScheduler(Generic[W]):
    """Hands out chunks in order, a few at a time, to whichever worker has room.

    Args:
        chunks: all of the round's, longest work first.
        num_workers: workers are numbered from 0.
        owner: the one worker that may run a chunk; None: any may.

    >>> scheduler = ChunkScheduler(["a", "b", "c"], num_workers=1)
    >>> list(scheduler.assignments())
    [(0, 'a'), (0, 'b')]
    >>> scheduler.finish(0)
    >>> list(scheduler.assignments())
    [(0, 'c')]
    """

    def __init__(
        self,
        chunks: Sequence[W],
        *,
        num_workers: int,
        owner: Callable[[W], int] | None = None,
    ) -> None:
        self._load = [0] * num_workers
        self._away: set[int] = set()
        self._is_owned = owner is not None
        self._shared = deque(chunks if owner is None else ())
        self._owned: list[deque[W]] = [deque() for _ in range(num_workers)]
        if owner is not None:
            for chunk in chunks:
                self._owned[owner(chunk)].append(chunk)

    @property
    def is_done(self) -> bool:
        """Whether every chunk has been handed out and has ended."""
        return not self._shared and not any(self._owned) and not any(self._load)

    def assignments(self) -> Iterator[tuple[int, W]]:
        """Iterate over (worker, chunk) to start now, the least loaded workers first."""
        for room in range(1, IN_FLIGHT + 1):
            for worker, load in enumerate(self._load):
                queue = self._owned[worker] or self._shared
                if load < room and queue and worker not in self._away:
                    self._load[worker] += 1
                    yield worker, queue.popleft()

    def finish(self, worker: int) -> None:
        """Note that one of the worker's chunks has ended."""
        self._load[worker] -= 1

    def lose(self, worker: int, chunk: W) -> None:
        """Note that one of the worker's chunks was lost; it is the next to be handed out."""
        self._load[worker] -= 1
        owned = self._owned[worker]
        (owned if self._is_owned else self._shared).appendleft(chunk)

    def suspend(self, worker: int) -> None:
        """Give the worker nothing until it is back."""
        self._away.add(worker)

    def resume(self, worker: int) -> None:
        """Give the worker chunks again."""
        self._away.discard(worker)
