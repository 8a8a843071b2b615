"""Cutting a cohort into chunks, by the amount of work and the actors' pace.

Where chunks begin and end does not affect the result, so their sizes only follow from speed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from simfl.client import LocalWork
from simfl.data import FederatedDataset
from simfl.messages import Chunk, ChunkReport, CohortPart, EvaluationChunk, RoundPlan

Work: TypeAlias = tuple[float, ...]
"""An amount of work in several measures, such as steps and examples."""

HANDED_OUT = 0.8
"""The share of the work that is left which the next chunk of every worker may take together."""

WORTH_A_CALL_S = 0.1
"""How much work in a call makes up for what the call itself costs, a few milliseconds."""

UNEVEN = 8
"""Equal parts may differ by about one in so many."""


class Pace:
    """Learns how long a step takes a group's actors, and so how much work is worth a call."""

    def __init__(self) -> None:
        self._seconds_per_step: float | None = None

    def learn(self, reports: Sequence[ChunkReport]) -> None:
        """Take in what the group has done in a round that has ended."""
        seconds = sum(report.seconds for report in reports)
        num_steps = sum(int(report.clients.num_steps.sum()) for report in reports)
        self._seconds_per_step = seconds / num_steps if num_steps else None

    @property
    def least_work(self) -> float:
        """How many steps a chunk should have; 0 until a round has been seen."""
        return WORTH_A_CALL_S / self._seconds_per_step if self._seconds_per_step else 0.0


class Workload:
    """Computes the amount of work in a chunk, from its clients' steps and examples.

    Args:
        local: what a client does in a round.
        dataset: provides the clients' numbers of examples; the examples are not read.
    """

    def __init__(self, local: LocalWork, dataset: FederatedDataset) -> None:
        self._local = local
        self._num_examples = dataset.num_train_examples()
        self._num_evaluated = dataset.num_evaluation_examples()

    def of(self, chunk: Chunk | EvaluationChunk) -> Work:
        """Return its numbers of steps and examples; for an evaluation, of batches or clients."""
        if isinstance(chunk, Chunk):
            held = self._num_examples[list(chunk.clients)]
            steps = self._local.num_steps(held)
            size = np.minimum(self._local.batch_size or held, held)
            return float(steps.sum()), float((steps * size).sum())
        if chunk.split == "test":
            return (float(len(chunk.items)),)
        clients = list(itertools.chain.from_iterable(chunk.items))
        return float(len(clients)), float(self._num_evaluated[clients].sum())


def guided_chunks(
    plan: RoundPlan, part: CohortPart, num_workers: int, *, least_work: float = 0.0
) -> list[Chunk]:
    """Cut a group's part into contiguous chunks, large ones first and ever smaller ones to the end.

    Each is one whole subtree of the reduction, so that an actor sends one partial for it: few
    calls and few partials while there is much to do, and small chunks to even out the end, when
    the workers have turned out to be of different speed. All workers' next chunks are cut from the
    same share of what is left, as in factoring (Hummel, Schonberg and Flynn, 1992,
    https://doi.org/10.1145/135226.135232). What would be too little work for small chunks is cut
    into equal ones, one for each worker.

    Args:
        plan: of the round.
        part: of its cohort.
        num_workers: how many there are in the group.
        least_work: steps below which a chunk costs more than it evens out.

    >>> plan = RoundPlan(1, tuple(range(10)))
    >>> (part,) = plan.split()
    >>> [len(chunk.clients) for chunk in guided_chunks(plan, part, num_workers=2)]
    [4, 4, 1, 1]
    >>> [len(chunk.clients) for chunk in guided_chunks(plan, part, num_workers=2, least_work=5)]
    [5, 5]
    """
    num_clients = part.end - part.begin
    num_steps = plan.num_steps[part.begin : part.end] or np.ones(num_clients)
    work = np.concatenate([[0], np.cumsum(num_steps)])
    ends: list[int] = [0]
    share = 0.0
    while (start := ends[-1]) < num_clients:
        if (len(ends) - 1) % num_workers == 0:
            fair = (work[-1] - work[start]) / num_workers
            if (1 - HANDED_OUT) * fair < least_work:
                ends += _equal_ends(work, start, num_workers, smallest=part.stack)
                break
            share = HANDED_OUT * fair
        size = _subtree_size(work, start, share, part)
        ends.append(min(start + size, num_clients))
    return _chunks(plan, part, ends)


def _equal_ends(
    work: np.ndarray[Any, Any], start: int, num_parts: int, *, smallest: int
) -> list[int]:
    """Return where to cut the rest into parts of equal work, at large subtrees if it is all one."""
    num_left = len(work) - 1 - start
    grain = max(smallest, 1 << max(0, (num_left // num_parts // UNEVEN).bit_length() - 1))
    goals = work[start] + (work[-1] - work[start]) * np.arange(1, num_parts) / num_parts
    cuts = grain * np.round(np.searchsorted(work, goals) / grain).astype(int)
    return sorted({int(cut) for cut in cuts if start < cut < len(work) - 1} | {len(work) - 1})


def _chunks(plan: RoundPlan, part: CohortPart, ends: Sequence[int]) -> list[Chunk]:
    """Return the chunks that begin and end there, counted from the part's first client."""
    clients = plan.clients[part.begin : part.end]
    return [
        Chunk(plan.round, part.start + start, clients[start:end], plan.num_positions, part.group)
        for start, end in itertools.pairwise(ends)
    ]


def _subtree_size(work: np.ndarray[Any, Any], start: int, share: float, part: CohortPart) -> int:
    """Return the size of the largest subtree that begins here and is no more work than that."""
    size = part.stack
    while (
        (part.start + start) % (2 * size) == 0
        and start + 2 * size < len(work)
        and work[start + 2 * size] - work[start] <= share
    ):
        size *= 2
    return size


def equal_chunks(plan: RoundPlan, part: CohortPart, size: int) -> list[Chunk]:
    """Cut a group's part into contiguous chunks of whole stacks; the last one may be smaller.

    Args:
        plan: of the round.
        part: of its cohort.
        size: clients a chunk, at least; rounded up to whole stacks.
    """
    num_clients, size = part.end - part.begin, -(-size // part.stack) * part.stack
    return _chunks(plan, part, [*range(0, num_clients, size), num_clients])
