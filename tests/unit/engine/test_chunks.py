"""How a cohort is cut into chunks, and how much work they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from simfl.client import LocalWork
from simfl.data import Examples, FederatedDataset
from simfl.engine import Pace, Workload, equal_chunks, guided_chunks
from simfl.engine.chunks import ChunkQueue, deal, fair_shares
from simfl.messages import (
    Chunk,
    ChunkReport,
    ClientReports,
    CohortPart,
    EvaluationChunk,
    RoundPlan,
)
from simfl.sampling import UniformInt


def only_part(plan: RoundPlan) -> CohortPart:
    (part,) = plan.split()
    return part


@given(
    st.lists(st.integers(0, 1000), min_size=1, max_size=300).map(lambda n: sorted(n)[::-1]),
    st.integers(1, 9),
)
def test_guided_chunks_cover_the_cohort_by_subtrees_of_no_more_than_a_fair_share(
    num_steps: list[int], num_workers: int
) -> None:
    plan = RoundPlan(3, tuple(range(100, 100 + len(num_steps))), tuple(num_steps))
    chunks = guided_chunks(plan, only_part(plan), num_workers)
    assert tuple(client for chunk in chunks for client in chunk.clients) == plan.clients
    for chunk in chunks:
        size = len(chunk.clients)
        assert plan.clients[chunk.start] == chunk.clients[0]
        assert (size & (size - 1), chunk.start % size) == (0, 0)
        work = sum(num_steps[chunk.start : chunk.start + size])
        assert size == 1 or work <= sum(num_steps) / num_workers


def test_guided_chunks_shrink_to_single_clients() -> None:
    """Two workers, 500 alike: 0.8 * 500 / 2 = 200, so 128 each; then 0.8 * 244 / 2 = 97; ..."""
    plan = RoundPlan(1, tuple(range(500)))
    sizes = [len(chunk.clients) for chunk in guided_chunks(plan, only_part(plan), 2)]
    assert sizes == [128, 128, 64, 64, 32, 32, 16, 16, 8, 8, 1, 1, 1, 1]


@given(
    st.lists(st.integers(0, 1000), min_size=1, max_size=300).map(lambda n: sorted(n)[::-1]),
    st.integers(1, 9),
    st.floats(0, 1e6),
)
def test_guided_chunks_cover_the_cohort_however_much_work_is_worth_a_call(
    num_steps: list[int], num_workers: int, least_work: float
) -> None:
    plan = RoundPlan(3, tuple(range(100, 100 + len(num_steps))), tuple(num_steps))
    chunks = guided_chunks(plan, only_part(plan), num_workers, least_work=least_work)
    assert tuple(client for chunk in chunks for client in chunk.clients) == plan.clients
    assert all(chunk.clients[0] == plan.clients[chunk.start] for chunk in chunks)


def test_a_short_round_is_one_chunk_for_each_worker_cut_where_subtrees_end() -> None:
    """500 clients of 2 steps, 2 ms each: half of them are at work for 1 s, and the last fifth of
    that is worth a call (0.1 s). At 0.1 ms it is not."""
    plan = RoundPlan(1, tuple(range(500)), (2,) * 500)
    slow, fast = Pace(), Pace()
    slow.learn([report(0.5), report(1.5)])
    fast.learn([report(0.025), report(0.075)])
    assert len(guided_chunks(plan, only_part(plan), 2, least_work=slow.least_work)) > 2
    sizes = [
        len(c.clients) for c in guided_chunks(plan, only_part(plan), 2, least_work=fast.least_work)
    ]
    assert sizes == [256, 244]


def report(seconds: float) -> ChunkReport:
    """Return that of 250 clients with 2 steps each."""
    zeros = np.zeros(250)
    rest = dict.fromkeys(("train_loss", "first_loss", "last_loss", "delta_norm", "seconds"), zeros)
    ids, num_steps = np.arange(250), np.full(250, 2)
    return ChunkReport(1, 0, ClientReports(ids, ids, num_steps, **rest, dropped={}), seconds)


def test_equal_parts_are_of_equal_work_and_not_of_equal_numbers() -> None:
    plan = RoundPlan(1, tuple(range(6)), (50, 10, 10, 10, 10, 10))
    assert [len(c.clients) for c in guided_chunks(plan, only_part(plan), 2, least_work=1000)] == [
        1,
        5,
    ]
    plan = RoundPlan(1, tuple(range(10)), (4, 4, 4, 4, 4, 3, 3, 3, 2, 2))  # 16 + 17, not 20 + 13
    assert [len(c.clients) for c in guided_chunks(plan, only_part(plan), 2, least_work=1000)] == [
        4,
        6,
    ]


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=60).map(lambda n: sorted(n)[::-1]),
    st.integers(1, 5),
    st.sampled_from([1, 2, 8]),
)
def test_shares_cover_a_part_and_the_longest_is_no_longer_than_of_contiguous_chunks(
    num_steps: list[int], num_workers: int, stack: int
) -> None:
    """And by what Graham proves, no longer than a fair share and one more chunk."""
    first = RoundPlan(3, tuple(range(100, 100 + len(num_steps))), tuple(num_steps))
    part = CohortPart(0, 0, len(num_steps), 0, stack)
    steps = dict(zip(first.clients, num_steps, strict=True))

    def load(chunks: list[Chunk]) -> int:
        return sum(steps[client] for chunk in chunks for client in chunk.clients)

    shares = fair_shares(first, part, num_workers)
    assert len(shares) <= num_workers
    chunks = sorted((chunk for share in shares for chunk in share), key=lambda chunk: chunk.start)
    assert tuple(client for chunk in chunks for client in chunk.clients) == first.clients
    assert all(chunk.start % stack == 0 for chunk in chunks)
    contiguous = guided_chunks(first, part, num_workers, least_work=1e9)
    assert max(map(load, shares)) <= max(load([chunk]) for chunk in contiguous)
    cut = equal_chunks(first, part, stack)
    longest = max(map(load, deal(cut, first, part, num_workers)))
    assert longest <= sum(num_steps) / num_workers + max(load([chunk]) for chunk in cut)


def test_a_client_with_most_of_the_work_is_a_chunk_of_its_own() -> None:
    plan = RoundPlan(1, (7, 1, 2, 3), (90, 1, 1, 1))
    assert guided_chunks(plan, only_part(plan), 2)[0].clients == (7,)


def test_chunks_are_contiguous_and_know_the_cohort_they_are_of() -> None:
    plan = RoundPlan(round=4, clients=(9, 8, 7, 6, 5))
    chunks = equal_chunks(plan, only_part(plan), 2)
    assert [(c.start, c.clients) for c in chunks] == [(0, (9, 8)), (2, (7, 6)), (4, (5,))]
    assert {(c.round, c.cohort_size) for c in chunks} == {(4, 5)}


def test_chunks_carry_steps_that_were_drawn_and_no_others() -> None:
    plan = RoundPlan(4, (9, 8, 7, 6, 5), (5, 4, 4, 1, 0))
    assert [c.num_steps for c in equal_chunks(plan, only_part(plan), 2)] == [()] * 3
    drawn = replace(plan, draws_steps=True)
    chunks = equal_chunks(drawn, only_part(drawn), 2)
    assert [c.num_steps for c in chunks] == [(5, 4), (4, 1), (0,)]


@given(
    st.integers(1, 300),
    st.integers(1, 9),
    st.sampled_from([2, 8, 64]),
    st.sampled_from([0.0, 10.0, 1000.0]),
)
def test_chunks_begin_and_end_where_stacks_do(
    num_clients: int, num_workers: int, stack: int, least_work: float
) -> None:
    part = CohortPart(0, 0, num_clients, 0, stack)
    plan = RoundPlan(1, tuple(range(num_clients)), (1,) * num_clients, (part,))
    for chunks in (
        guided_chunks(plan, part, num_workers, least_work=least_work),
        equal_chunks(plan, part, size=5),
    ):
        assert tuple(client for chunk in chunks for client in chunk.clients) == plan.clients
        assert all(chunk.start % stack == 0 for chunk in chunks)


def test_work_is_counted_in_steps_and_in_examples_that_they_take() -> None:
    """Clients of 5, 100 and 0 examples; two epochs in batches of 20, or of all that there is."""
    counts = np.array([5, 100, 0])
    ends = np.concatenate([[0], np.cumsum(counts)])
    nothing = Examples(np.empty(0, np.float32), np.empty(0, np.int64))
    dataset = FederatedDataset(nothing, np.empty(0, np.int64), ends, ends[1:])
    chunk = Chunk(1, 0, (1, 0, 2), 3)
    assert Workload(LocalWork(epochs=2, batch_size=20), dataset).of(chunk) == (12.0, 210.0)
    assert Workload(LocalWork(epochs=2), dataset).of(chunk) == (4.0, 210.0)
    drawn = Chunk(1, 0, (1, 0, 2), 3, num_steps=(3, 1, 0))
    work = LocalWork(steps=UniformInt(high=3), batch_size=20)
    assert Workload(work, dataset).of(drawn) == (4.0, 65.0)
    held = EvaluationChunk("clients", ((0, 2), (1,)))
    assert Workload(LocalWork(), dataset).of(held) == (3.0, 105.0)
    assert Workload(LocalWork(), dataset).of(EvaluationChunk("test", ((0,), (1,)))) == (2.0,)


@given(st.integers(0, 40), st.lists(st.sampled_from("abc"), max_size=8), st.randoms())
def test_each_chunk_is_taken_once_whoever_comes(num: int, places: list[str], random: Any) -> None:
    """By actors of nodes with and without chunks of their own; some are lost and taken again."""
    queue, taken, lost = ChunkQueue(range(num), places), list[int](), 3
    while queue:
        place = random.choice("abcd")
        chunk = queue.take(place)
        if lost and random.random() < 0.2:
            queue.put_back(chunk, place)
            lost -= 1
        else:
            taken.append(chunk)
    assert sorted(taken) == list(range(num))


def test_actors_of_a_node_get_neighbors_in_each_wave() -> None:
    """Two waves over four actors, numbered in turn on two nodes; then one of "a" helps out "b"."""
    queue = ChunkQueue(range(8), ["a", "b", "a", "b"])
    assert [queue.take("a") for _ in range(4)] == [0, 1, 4, 5]
    assert [queue.take(place) for place in "abbb"] == [2, 3, 6, 7]
