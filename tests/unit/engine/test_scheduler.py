"""The chunk scheduler: every chunk once, room respected, owners respected."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from simfl.engine import ChunkScheduler, chunk_size_for, split_cohort
from simfl.engine.scheduler import IN_FLIGHT
from simfl.messages import RoundPlan


@given(st.integers(1, 30), st.integers(1, 5), st.randoms())
def test_every_chunk_runs_once_and_no_worker_has_more_than_two(
    num_chunks: int, num_workers: int, random: object
) -> None:
    scheduler = ChunkScheduler(range(num_chunks), num_workers=num_workers)
    running: list[tuple[int, int]] = []
    seen = []
    while not scheduler.is_done:
        running += scheduler.assignments()
        for worker in range(num_workers):
            assert sum(1 for w, _ in running if w == worker) <= IN_FLIGHT
        worker, chunk = running.pop(random.randrange(len(running)))  # type: ignore[attr-defined]
        seen.append(chunk)
        scheduler.finish(worker)
    assert sorted(seen) == list(range(num_chunks))


def test_chunks_go_to_idle_workers_before_any_gets_a_second_one() -> None:
    scheduler = ChunkScheduler("abc", num_workers=2)
    assert list(scheduler.assignments()) == [(0, "a"), (1, "b"), (0, "c")]


def test_an_owned_chunk_waits_for_its_owner() -> None:
    scheduler = ChunkScheduler([1, 1, 1, 0], num_workers=2, owner=lambda chunk: chunk)
    assert list(scheduler.assignments()) == [(0, 0), (1, 1), (1, 1)]
    scheduler.finish(0)
    assert list(scheduler.assignments()) == []
    scheduler.finish(1)
    assert list(scheduler.assignments()) == [(1, 1)]


@given(st.integers(1, 10_000), st.integers(1, 64))
def test_the_chunk_size_is_a_power_of_two_and_leaves_no_worker_without_work(
    cohort: int, workers: int
) -> None:
    size = chunk_size_for(cohort, workers)
    assert size & (size - 1) == 0
    assert size == 1 or size * workers * 4 <= cohort


def test_chunks_are_contiguous_and_know_the_cohort_they_are_of() -> None:
    chunks = split_cohort(RoundPlan(round=4, clients=(9, 8, 7, 6, 5)), 2)
    assert [(c.start, c.clients) for c in chunks] == [(0, (9, 8)), (2, (7, 6)), (4, (5,))]
    assert {(c.round, c.cohort_size) for c in chunks} == {(4, 5)}
