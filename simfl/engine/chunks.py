"""Cutting a cohort into chunks, by the amount of work and the actors' pace.

Where chunks begin and end does not affect the result, so their sizes only follow from speed.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np

from simfl.aggregation import TreeSum
from simfl.client import LocalWork
from simfl.data import FederatedDataset
from simfl.messages import Chunk, ChunkReport, CohortPart, EvaluationChunk, RoundPlan
from simfl.record import TUNED

T = TypeVar("T")

Work: TypeAlias = tuple[float, ...]
"""An amount of work in several measures, such as steps and examples."""

HANDED_OUT = 0.8
"""The fraction of the remaining work that the next chunks of all actors take together."""

WORTH_A_CALL_S = 0.1
"""The amount of work that is worth a call, in seconds; a call itself costs a few milliseconds."""

COSTLY_BYTES = 1 << 25
"""The size from which sending a partial, and adding it, takes several times as long as a call."""

WORTH_DEALING = 0.98
"""The part of the longest share's work by which it must become shorter for chunks to be dealt."""

UNEVEN = 8
"""Parts of equal work may differ by about one in so many."""


class Pace:
    """Learns how long a step takes on a group's actors, and so how much work is worth a call."""

    def __init__(self) -> None:
        self._seconds_per_step: float | None = None
        self.partial_bytes = 0
        """The size of the largest partial."""

    def learn(self, reports: Sequence[ChunkReport]) -> None:
        """Learn from what the group has done in a round."""
        seconds = sum(report.seconds for report in reports)
        num_steps = sum(int(report.clients.num_steps.sum()) for report in reports)
        self._seconds_per_step = seconds / num_steps if num_steps else None
        self.partial_bytes = max(report.partial_bytes for report in reports)

    @property
    def least_work(self) -> float:
        """The number of steps that a chunk should have; 0 before the first round."""
        return WORTH_A_CALL_S / self._seconds_per_step if self._seconds_per_step else 0.0

    @property
    def sends_much(self) -> bool:
        """Whether a partial costs more than a call."""
        return self.partial_bytes > COSTLY_BYTES


class Workload:
    """Computes the amount of work in a chunk, from its clients' steps and examples.

    Args:
        local: what a client does in a round.
        dataset: provides the clients' numbers of examples; the examples are not read.
        personal_steps: how many steps clients train when they are evaluated.
    """

    def __init__(
        self, local: LocalWork, dataset: FederatedDataset, *, personal_steps: int = 0
    ) -> None:
        self._local = local
        self._personal_steps = personal_steps
        self._num_examples = dataset.num_train_examples()
        self._num_evaluated = dataset.num_evaluation_examples()

    def of(self, chunk: Chunk | EvaluationChunk) -> Work:
        """Return its numbers of steps and examples; for an evaluation, of batches or clients."""
        if isinstance(chunk, Chunk):
            drawn = chunk.num_steps
            held = self._num_examples[list(chunk.clients)]
            steps = np.array(drawn) if drawn else self._local.num_steps(held)
            return float(steps.sum()), self._batch_examples(chunk.clients, steps)
        if chunk.split == "test":
            return (float(len(chunk.items)),)
        clients, models = chunk.clients, max(1, len(chunk.own))
        steps_each = self._personal_steps if TUNED in chunk.own else 0
        held = self._num_examples if chunk.split == "training" else self._num_evaluated
        examples = float(held[clients].sum()) * models
        batches = float(len(clients) * (models + steps_each))
        return batches, examples + self._batch_examples(clients, steps_each)

    def _batch_examples(self, clients: Sequence[int], steps: np.ndarray[Any, Any] | int) -> float:
        """Return how many examples there are in so many batches of each client."""
        held = self._num_examples[list(clients)]
        return float((np.minimum(self._local.batch_size or held, held) * steps).sum())


class ChunkQueue(Generic[T]):
    """The chunks that wait, in order.

    Each wave, a chunk for each actor, is dealt out to nodes in contiguous runs, so that what a
    node's actors train are neighbors in the tree, and adds up there. An actor whose node has none
    left takes what another node's would have taken next.

    Args:
        chunks: all that are to be trained.
        places: the node of each actor that may do so.
    """

    def __init__(self, chunks: Sequence[T], places: Iterable[str]) -> None:
        order = sorted(places) or [""]
        self._by_place: dict[str, deque[T]] = {place: deque() for place in order}
        for place, chunk in zip(itertools.cycle(order), chunks, strict=False):
            self._by_place[place].append(chunk)
        self._size = len(chunks)

    def __len__(self) -> int:
        return self._size

    def take(self, place: str) -> T:
        """Take the next chunk for an actor on a node."""
        self._size -= 1
        own = self._by_place.get(place)
        return (own or max(self._by_place.values(), key=len)).popleft()

    def put_back(self, chunk: T, place: str) -> None:
        """Make a lost chunk the next one."""
        self._size += 1
        self._by_place.setdefault(place, deque()).appendleft(chunk)


def guided_chunks(
    plan: RoundPlan,
    part: CohortPart,
    num_workers: int,
    *,
    least_work: float = 0.0,
    sends_much: bool = False,
) -> list[Chunk]:
    """Cut a group's part into contiguous chunks, large ones first and ever smaller ones to the end.

    Each chunk is one whole subtree of the reduction, so that an actor sends one partial for it.
    Large chunks come first, since each costs a call and a partial; small ones even out the end, as
    actors differ in speed. The next chunks of all actors together are a fixed fraction of what is
    left, as in factoring (Hummel, Schonberg and Flynn, 1992,
    https://doi.org/10.1145/135226.135232). Where small chunks would be too little work, the rest is
    cut into equal ones, one for each actor.

    Args:
        plan: of the round.
        part: of its cohort.
        num_workers: the number of the group's actors.
        least_work: the number of steps below which a chunk is not worth a call.
        sends_much: whether a partial costs more than a call. Then the rest is cut into equal chunks
            only if these are no more subtrees, each of which is sent.

    >>> plan = RoundPlan(1, tuple(range(10)))
    >>> (part,) = plan.split()
    >>> [len(chunk.clients) for chunk in guided_chunks(plan, part, num_workers=2)]
    [4, 4, 1, 1]
    >>> [len(chunk.clients) for chunk in guided_chunks(plan, part, num_workers=2, least_work=5)]
    [5, 5]
    >>> chunks = guided_chunks(plan, part, num_workers=2, least_work=5, sends_much=True)
    >>> [len(chunk.clients) for chunk in chunks]
    [4, 4, 1, 1]
    """
    work = _cumulated_work(plan, part)
    chunks = _chunks(plan, part, _guided_ends(work, part, num_workers, least_work=least_work))
    if not sends_much:
        return chunks
    others = _chunks(plan, part, _guided_ends(work, part, num_workers, least_work=0.0))
    return min(chunks, others, key=_num_subtrees)


def _guided_ends(
    work: np.ndarray[Any, Any], part: CohortPart, num_workers: int, *, least_work: float
) -> list[int]:
    num_clients = len(work) - 1
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
    return ends


def fair_shares(plan: RoundPlan, part: CohortPart, num_workers: int) -> list[list[Chunk]]:
    """Cut a group's part for actors that get all of their work at once; return each one's chunks.

    That is a contiguous chunk each; or, where clients are few, so that these would be unequal, the
    chunks of ``guided_chunks``, dealt out.

    >>> plan = RoundPlan(1, tuple(range(10)), (4, 4, 4, 4, 4, 4, 4, 4, 3, 2))
    >>> (part,) = plan.split()
    >>> [[chunk.clients for chunk in share] for share in fair_shares(plan, part, 2)]
    [[(0, 1), (4, 5), (8,)], [(2, 3), (6, 7), (9,)]]
    >>> plan = RoundPlan(1, tuple(range(9)))
    >>> (part,) = plan.split()
    >>> [[chunk.clients for chunk in share] for share in fair_shares(plan, part, 3)]
    [[(0, 1, 2)], [(3, 4, 5)], [(6, 7, 8)]]
    """
    work = _cumulated_work(plan, part)
    ends = _equal_ends(work, 0, num_workers, smallest=part.stack)
    contiguous = [[chunk] for chunk in _chunks(plan, part, [0, *ends])]
    dealt = deal(guided_chunks(plan, part, num_workers), plan, part, num_workers)
    most, least = (max(map(sum, _work_of(shares, work, part))) for shares in (contiguous, dealt))
    return dealt if least < WORTH_DEALING * most else contiguous


def deal(
    chunks: Sequence[Chunk], plan: RoundPlan, part: CohortPart, num_workers: int
) -> list[list[Chunk]]:
    """Deal out chunks of a part, each to the actor with the least work so far.

    That is at most 4/3 of what is possible if large chunks come first (Graham, 1969,
    https://doi.org/10.1137/0117039).
    """
    work = _cumulated_work(plan, part)
    shares: list[list[Chunk]] = [[] for _ in range(num_workers)]
    loads = [0.0] * num_workers
    for chunk, amount in zip(chunks, *_work_of([chunks], work, part), strict=True):
        lightest = loads.index(min(loads))
        shares[lightest].append(chunk)
        loads[lightest] += amount
    return shares


def _work_of(
    shares: Sequence[Sequence[Chunk]], work: np.ndarray[Any, Any], part: CohortPart
) -> list[list[float]]:
    """Return the number of steps of each chunk."""
    return [
        [
            float(work[(first := chunk.start - part.start) + len(chunk.clients)] - work[first])
            for chunk in share
        ]
        for share in shares
    ]


def _cumulated_work(plan: RoundPlan, part: CohortPart) -> np.ndarray[Any, Any]:
    """Return how many steps there are before each client of a part, and at last in all."""
    num_steps = plan.num_steps[part.begin : part.end] or np.ones(part.end - part.begin)
    return np.concatenate([[0], np.cumsum(num_steps)])


def _num_subtrees(chunks: Sequence[Chunk]) -> int:
    """Return how many subtrees of the reduction the chunks consist of, one by one."""
    count = 0
    for chunk in chunks:
        tree = TreeSum[bool](chunk.cohort_size, lambda *_: True)
        for position in range(chunk.start, chunk.start + len(chunk.clients)):
            tree.add(position, True)
        count += len(tree.nodes)
    return count


def _equal_ends(
    work: np.ndarray[Any, Any], start: int, num_parts: int, *, smallest: int
) -> list[int]:
    """Return where to cut the rest into parts of equal work, if possible between large subtrees."""
    num_left = len(work) - 1 - start
    grain = max(smallest, 1 << max(0, (num_left // num_parts // UNEVEN).bit_length() - 1))
    goals = work[start] + (work[-1] - work[start]) * np.arange(1, num_parts) / num_parts
    nearest = np.interp(goals, work, np.arange(len(work)))
    cuts = grain * np.round(nearest / grain).astype(int)
    return sorted({int(cut) for cut in cuts if start < cut < len(work) - 1} | {len(work) - 1})


def _chunks(plan: RoundPlan, part: CohortPart, ends: Sequence[int]) -> list[Chunk]:
    """Return the chunks between these ends, which count from the part's first client."""
    clients = plan.clients[part.begin : part.end]
    steps = plan.num_steps[part.begin : part.end] if plan.draws_steps else ()
    width = plan.num_positions
    return [
        Chunk(
            plan.round, part.start + start, clients[start:end], width, part.group, steps[start:end]
        )
        for start, end in itertools.pairwise(ends)
    ]


def _subtree_size(work: np.ndarray[Any, Any], start: int, share: float, part: CohortPart) -> int:
    """Return the size of the largest subtree that begins here and is at most a share of work."""
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
        size: the number of clients in a chunk, rounded up to whole stacks.
    """
    num_clients, size = part.end - part.begin, -(-size // part.stack) * part.stack
    return _chunks(plan, part, [*range(0, num_clients, size), num_clients])


def cut_evaluation(chunk: EvaluationChunk, size: int) -> list[EvaluationChunk]:
    """Cut an evaluation into chunks of so many items; the last one may be smaller."""
    starts = range(0, len(chunk.items), size)
    return [replace(chunk, items=chunk.items[start : start + size]) for start in starts]
