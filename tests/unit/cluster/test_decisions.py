"""What is decided about a loss."""

from __future__ import annotations

import pytest

from simfl.cluster.recovery import Attempts, Decision, Loss, StallWatch, decide


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
def test_what_is_lost_once_is_made_again_and_what_is_lost_too_often_ends_the_run(
    loss: Loss, attempt: int, decision: Decision
) -> None:
    assert decide(loss, attempt=attempt, max_retries=2) is decision


def test_no_retries_means_none() -> None:
    assert all(decide(loss, attempt=1, max_retries=0) is Decision.ABORT for loss in Loss)


def test_each_chunk_has_a_count_of_its_own() -> None:
    attempts = Attempts(max_retries=1)
    assert attempts.lost(Loss.CLIENT_ACTOR, "a") is Decision.RETRY
    assert attempts.lost(Loss.CLIENT_ACTOR, "b") is Decision.RETRY
    assert attempts.lost(Loss.CLIENT_ACTOR, "a") is Decision.ABORT


def test_a_chunk_that_only_waited_at_the_dead_actor_is_not_blamed() -> None:
    attempts = Attempts(max_retries=1)
    for _ in range(5):
        assert attempts.lost(Loss.CLIENT_ACTOR, "a", is_to_blame=False) is Decision.RETRY


def test_a_stall_is_twenty_times_the_slowest_chunk_and_two_minutes_at_least() -> None:
    watch = StallWatch(None)
    assert not watch.is_overdue(1e9)  # nothing has ended yet, so nothing is known
    watch.learn(1.0)
    assert (watch.is_overdue(119), watch.is_overdue(121)) == (False, True)
    watch.learn(30.0)
    watch.learn(2.0)
    assert (watch.is_overdue(599), watch.is_overdue(601)) == (False, True)


def test_a_given_limit_is_the_limit() -> None:
    watch = StallWatch(5.0)
    watch.learn(100.0)
    assert (watch.is_overdue(4.9), watch.is_overdue(5.1)) == (False, True)
