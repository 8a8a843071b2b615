"""What follows a loss, and when a process counts as stalled."""

from __future__ import annotations

import pytest

from simfl.engine.recovery import SILENT_S, Decision, Heartbeats, Loss, StallWatch, decide


@pytest.mark.parametrize(
    ("loss", "attempt", "decision"),
    [
        (Loss.CLIENT_ACTOR, 1, Decision.RETRY),
        (Loss.CLIENT_ACTOR, 2, Decision.RETRY),
        (Loss.CLIENT_ACTOR, 3, Decision.ABORT),
        (Loss.SERVER_ACTOR, 1, Decision.RESTORE),
        (Loss.SERVER_ACTOR, 3, Decision.ABORT),
        (Loss.OBJECT, 1, Decision.REDO_ROUND),
        (Loss.OBJECT, 2, Decision.ROLL_BACK),
        (Loss.OBJECT, 3, Decision.ABORT),
    ],
)
def test_a_loss_is_recovered_and_too_many_losses_end_the_run(
    loss: Loss, attempt: int, decision: Decision
) -> None:
    assert decide(loss, attempt=attempt, max_retries=2) is decision


def test_no_retries_means_none() -> None:
    assert all(decide(loss, attempt=1, max_retries=0) is Decision.ABORT for loss in Loss)


def overdue(watch: StallWatch, *work: float, ran_s: float, silent_s: float = 0.0) -> bool:
    return watch.is_overdue(work, ran_s=ran_s, silent_s=silent_s)


def test_before_any_work_has_finished_only_missing_heartbeats_count() -> None:
    watch = StallWatch(None)
    assert not overdue(watch, 10, ran_s=1e9, silent_s=SILENT_S)
    assert overdue(watch, 10, ran_s=1e9, silent_s=SILENT_S + 1)


def test_a_client_with_far_more_data_than_the_previous_ones_has_not_stalled() -> None:
    """20 steps took 30 s, and so 2,000 are expected to take 3,000 s: a hundred times that."""
    watch = StallWatch(None)
    watch.learn((20, 400), seconds=30.0)
    assert not overdue(watch, 2000, 40_000, ran_s=299_000)
    assert overdue(watch, 2000, 40_000, ran_s=301_000)
    # Larger batches, and not more of them: by the number of examples it is as much work.
    assert not overdue(watch, 20, 40_000, ran_s=299_000)
    assert overdue(watch, 20, 40_000, ran_s=301_000)
    # With heartbeats, even the least work may take an hour.
    assert [overdue(watch, 1, 20, ran_s=ran_s) for ran_s in (3599, 3601)] == [False, True]


def test_without_heartbeats_the_limit_is_twenty_times_the_expected_time_and_two_minutes() -> None:
    watch = StallWatch(None)
    watch.learn((10,), seconds=100.0)
    watch.learn((10,), seconds=5.0)
    for amount, limit_s in ((1, 200), (0.1, 120)):
        assert not overdue(watch, amount, ran_s=limit_s, silent_s=limit_s - 1)
        assert overdue(watch, amount, ran_s=limit_s + 2, silent_s=limit_s + 1)


def test_a_measure_of_which_there_was_no_work_has_no_pace() -> None:
    watch = StallWatch(None)
    watch.learn((0, 0), seconds=3.0)
    watch.learn((1, 0), seconds=3.0)
    assert watch.expected_s((2, 5)) == 6.0


def test_a_given_limit_is_the_limit() -> None:
    watch = StallWatch(5.0)
    watch.learn((1,), seconds=100.0)
    assert (overdue(watch, 1, ran_s=4.9), overdue(watch, 1, ran_s=5.1)) == (False, True)


def test_the_time_without_heartbeats_counts_up_to_the_last_poll() -> None:
    beats = Heartbeats()
    beats = beats.note({"client-0": 3}, now=10.0)
    beats = beats.note({"client-0": 4}, now=20.0)
    beats = beats.note({"client-0": 4}, now=50.0)
    assert beats.silent_s("client-0", since=0.0) == 30.0
    assert beats.silent_s("client-0", since=45.0) == 5.0, "it received its work after that"
    assert beats.silent_s("client-1", since=15.0) == 35.0, "which has never sent one"
    assert beats.silent_s("client-0", since=60.0) == 0.0
    beats = beats.note({"client-0": 1}, now=60.0)
    assert beats.silent_s("client-0", since=0.0) == 0.0, "the server has been restarted"
