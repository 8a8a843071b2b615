"""The controller: lists of events, and the actions that follow."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simfl.engine.controller import IN_FLIGHT, Controller
from simfl.engine.events import (
    Abort,
    Action,
    Assign,
    Back,
    Begin,
    Cause,
    DiedAgain,
    Event,
    Failed,
    Finished,
    Joined,
    Kill,
    Notify,
    Restart,
    Retire,
    Tick,
)
from simfl.engine.recovery import Heartbeats
from simfl.errors import ClusterError
from simfl.messages import Chunk, EvaluationChunk
from simfl.sections import ClusterSection

DEATH = ClusterError("its process died")


def a_chunk(start: int, *, group: int = 0) -> Chunk:
    return Chunk(7, start, (start,), 100, group)


def controller(num_actors: int, *, groups: Sequence[int] = (), **limits: Any) -> Controller:
    """Return one with so many actors, or an actor of each of these groups."""
    made = Controller(ClusterSection(**limits), lambda chunk: (1.0,))
    for number, group in enumerate(groups or [0] * num_actors):
        assert made.handle(Joined(f"client-{number}", group, is_starting=False), now=0.0) == []
    return made


def begin(made: Controller, num_chunks: int, now: float = 0.0) -> list[Action]:
    """Begin a pass of one lane."""
    chunks = [a_chunk(start) for start in range(num_chunks)]
    return made.handle(Begin(chunks, lanes=[0] * len(made._actors)), now=now)


def assigned(actions: list[Action]) -> list[tuple[int, int]]:
    """Return (actor, chunk's start) of actions that are all Assign."""
    assert all(isinstance(action, Assign) for action in actions), actions
    return [(a.actor, a.chunk.start) for a in actions]  # type: ignore[union-attr]


def summary(action: Action) -> Any:
    """Return what is compared: for an Assign, (task, actor, chunk's start, retries)."""
    match action:
        case Assign(task, actor, _, chunk, retries):
            assert isinstance(chunk, Chunk)
            return (task, actor, chunk.start, retries)
        case Notify(message):
            return message
    return action


def died(task: int) -> Failed:
    return Failed(task, Cause.DIED, DEATH)


def unbuilt(task: int) -> Failed:
    return Failed(task, Cause.UNBUILT, DEATH)


def full(task: int) -> Failed:
    return Failed(task, Cause.DEVICE_FULL, DEATH)


FULL = "round 7, clients 0 on client-0: its GPU's memory is full; the actor was stopped, 1 of its "
OTHER = ValueError("an object was lost")
CASES: dict[str, tuple[int, list[tuple[Event, list[Any]]]]] = {
    "a chunk whose actor died runs first on another, and the actor gets work when it is back": (
        5,
        [
            (died(0), [Restart(0)]),
            (died(2), []),
            (Finished(1), []),
            (Finished(3), [(4, 1, 2, 0)]),
            (Back(0), [(5, 0, 0, 1), (6, 0, 4, 0)]),
        ],
    ),
    "an actor that dies again while it is being started is started once more": (
        4,
        [
            (died(0), [Restart(0)]),
            (died(2), []),
            (DiedAgain(0), [Restart(0)]),
            (Back(0), [(4, 0, 2, 0), (5, 0, 0, 1)]),
        ],
    ),
    "a chunk that only waited at the dead actor is not blamed, whichever failure comes first": (
        4,
        [
            (died(2), [Restart(0)]),
            (died(0), []),
            (Back(0), [(4, 0, 0, 1), (5, 0, 2, 0)]),
        ],
    ),
    "nor is one that was given to an actor that had died before": (
        2,
        [
            (unbuilt(0), [Restart(0)]),
            (Back(0), [(2, 0, 0, 0)]),
            (unbuilt(2), [Restart(0)]),
            (Back(0), [(3, 0, 0, 0)]),
        ],
    ),
    "an actor whose GPU is full is stopped for good, and its chunks go to the others": (
        4,
        [
            (full(0), [Retire(0), FULL + "group continue"]),
            (died(2), []),
            (Finished(1), [(4, 1, 2, 0)]),
            (Finished(3), [(5, 1, 0, 0)]),
        ],
    ),
    "any other error ends the pass": (4, [(Failed(1, Cause.OTHER, OTHER), [Abort(OTHER)])]),
}


@pytest.mark.parametrize(("num_chunks", "events"), CASES.values(), ids=CASES.keys())
def test_each_event_leads_to_these_actions(
    num_chunks: int, events: list[tuple[Event, list[Any]]]
) -> None:
    """Two actors; of their first chunks 0 to 3, the even ones are with the first, as are tasks."""
    made = controller(2, max_retries=1)
    begun = [summary(action) for action in begin(made, num_chunks)]
    assert begun == [(n, n % 2, n, 0) for n in range(min(4, num_chunks))]
    for event, actions in events:
        assert [summary(action) for action in made.handle(event, now=1.0)] == actions


@given(st.integers(1, 30), st.integers(1, 5), st.randoms())
def test_every_chunk_runs_once_and_no_actor_has_more_than_two(
    num_chunks: int, num_actors: int, random: Any
) -> None:
    made = controller(num_actors)
    running: list[Any] = begin(made, num_chunks)
    seen = []
    while not made.is_done:
        for actor in range(num_actors):
            assert sum(1 for assign in running if assign.actor == actor) <= IN_FLIGHT
        assign = running.pop(random.randrange(len(running)))
        seen.append(assign.chunk.start)
        running += made.handle(Finished(assign.task), now=0.0)
    assert sorted(seen) == list(range(num_chunks))


@given(st.integers(1, 12), st.integers(1, 4), st.randoms())
def test_every_chunk_ends_whichever_actors_die(
    num_chunks: int, num_actors: int, random: Any
) -> None:
    """Ends and deaths in any order; an actor that is away gets nothing before it is back."""
    made = controller(num_actors, max_retries=1000)
    actions, running, away = begin(made, num_chunks), {}, set[int]()
    ended = []
    while True:
        for action in actions:
            if isinstance(action, Assign):
                assert action.actor not in away
                running[action.task] = action
            else:
                assert isinstance(action, Restart)
                assert action.actor not in away
                away.add(action.actor)
        if made.is_done:
            break
        if away and (not running or random.random() < 0.3):
            back = away.pop()
            event: Event = Back(back) if random.random() < 0.7 else DiedAgain(back)
        else:
            assign = running.pop(random.choice(list(running)))
            event = Finished(assign.task) if random.random() < 0.6 else died(assign.task)
            if isinstance(event, Finished):
                ended.append(assign.chunk.start)  # type: ignore[union-attr]
        actions = made.handle(event, now=0.0)
    assert sorted(ended) == list(range(num_chunks))


def test_chunks_go_to_idle_actors_before_any_gets_a_second_one() -> None:
    assert assigned(begin(controller(2), 3)) == [(0, 0), (1, 1), (0, 2)]


def test_while_another_actor_of_its_lane_is_being_started_none_has_a_second_chunk() -> None:
    made = controller(1)
    made.handle(Joined("client-1", 0, is_starting=True), now=0.0)
    assert assigned(begin(made, 4)) == [(0, 0)]
    assert assigned(made.handle(Back(1), now=0.0)) == [(1, 1), (0, 2), (1, 3)]


def test_an_actor_of_another_lane_and_one_that_is_retired_are_not_waited_for() -> None:
    made = controller(0, groups=[0, 0])
    made.handle(Joined("client-2", 1, is_starting=True), now=0.0)
    begin(made, 2)
    made.handle(full(1), now=0.0)
    made.handle(Finished(0), now=0.0)
    made.handle(Finished(2), now=0.0)
    chunks = [a_chunk(0), a_chunk(1), a_chunk(2, group=1)]
    begun = made.handle(Begin(chunks, lanes=[0, 0, 1]), now=0.0)
    assert assigned(begun) == [(0, 0), (0, 1)]


def test_a_chunk_waits_for_an_actor_of_its_lane() -> None:
    made = controller(2)
    lanes: list[Hashable] = ["even", "odd"]
    chunks = [a_chunk(start) for start in (1, 3, 5, 0)]
    begun = made.handle(Begin(chunks, lanes, lane_of=lambda chunk: lanes[chunk.start % 2]), now=0.0)
    assert assigned(begun) == [(0, 0), (1, 1), (1, 3)]
    assert made.handle(Finished(0), now=0.0) == []
    assert assigned(made.handle(Finished(1), now=0.0)) == [(1, 5)]


def test_each_chunk_has_a_count_of_its_own() -> None:
    """Chunk 0 is lost, then chunk 1, then chunk 0 once more; the other one only waits."""
    made = controller(1, max_retries=1)
    begin(made, 2)
    for lost, waiting, chunks in ((0, 1, (1, 0)), (2, 3, (0, 1))):
        assert made.handle(died(lost), now=0.0) == [Restart(0)]
        assert made.handle(died(waiting), now=0.0) == []
        assert assigned(made.handle(Back(0), now=0.0)) == [(0, chunk) for chunk in chunks]
    assert made.handle(died(4), now=0.0) == [Abort(DEATH)]


def test_no_retries_means_none() -> None:
    made = controller(1, max_retries=0)
    begin(made, 1)
    assert made.handle(died(0), now=0.0) == [Abort(DEATH)]


def test_a_chunk_that_only_waited_is_run_again_any_number_of_times() -> None:
    """Chunk 1 waits behind chunk 0, whose actor always finishes it and then turns out dead."""
    made = controller(1, max_retries=1)
    begin(made, 1)
    for task in range(5):
        assert made.handle(unbuilt(task), now=0.0) == [Restart(0)]
        assert [a.retries for a in made.handle(Back(0), now=0.0)] == [0]  # type: ignore[union-attr]


def test_after_an_abort_chunks_that_still_run_end_without_consequences() -> None:
    made = controller(2, max_retries=0)
    begin(made, 5)
    assert made.handle(Failed(0, Cause.OTHER, OTHER), now=0.0) == [Abort(OTHER)]
    assert not made.is_done
    assert made.handle(Finished(2), now=0.0) == []
    assert made.handle(died(1), now=0.0) == [Restart(1)], "it is needed for the next pass"
    assert made.handle(full(3), now=0.0) == []
    assert made.is_done
    assert assigned(begin(made, 3)) == [(0, 0)]


def test_the_last_actor_of_a_group_is_not_stopped_when_its_gpu_is_full() -> None:
    made = controller(0, groups=[0, 1])
    begin(made, 2)
    (action,) = made.handle(full(0), now=0.0)
    assert isinstance(action, Abort)
    with pytest.raises(ClusterError, match="no other actor of its group is left to stop"):
        raise action.error


def test_a_client_whose_own_actor_is_stopped_ends_the_pass_once_the_others_have_ended() -> None:
    made = controller(2)
    made.handle(Begin([a_chunk(0), a_chunk(1, group=1)], lanes=[0, 1]), now=0.0)
    assert made.handle(full(0), now=0.0)[0] == Retire(0)
    (action,) = made.handle(Finished(1), now=1.0)
    assert isinstance(action, Abort)
    with pytest.raises(ClusterError, match=r"their GPU's memory was full; lower client\.stack"):
        raise action.error


def test_a_stopped_actor_is_not_killed_as_stalled() -> None:
    made = controller(2, stall_limit_s=60.0)
    begin(made, 4)
    assert made.handle(full(0), now=0.0)[0] == Retire(0)
    assert made.handle(Tick(Heartbeats()), now=61.0) == [Kill(1)], "and not 0, whose chunk 2 fails"


def test_a_pass_ends_when_all_actors_have_been_away_for_too_long() -> None:
    made = controller(2, start_timeout_s=60.0, max_retries=9)
    begin(made, 2)
    assert made.handle(died(0), now=0.0) == [Restart(0)]
    made.handle(died(1), now=10.0)
    tick = Tick(Heartbeats())
    assert made.handle(tick, now=70.0) == []
    (action,) = made.handle(tick, now=70.1)
    assert isinstance(action, Abort)
    named = "client-0, client-1 died and could not be started again within 60 s"
    with pytest.raises(ClusterError, match=named):
        raise action.error


def test_a_stalled_chunk_is_named_with_its_clients_and_the_time_it_took() -> None:
    made = controller(1, stall_limit_s=60.0, max_retries=0)
    made.handle(Begin([Chunk(7, 0, (3, 8), 4)], lanes=[0]), now=0.0)
    tick = Tick(Heartbeats())
    assert made.handle(tick, now=100.0) == [Kill(0)]
    assert made.handle(tick, now=100.0) == [], "killed only once"
    named = r"round 7, clients 3, 8 on client-0: not done after 100 s, .* cluster\.stall_limit_s"
    (action,) = made.handle(died(0), now=101.0)
    assert isinstance(action, Abort)
    with pytest.raises(ClusterError, match=named):
        raise action.error


def test_the_times_of_training_are_not_used_for_evaluation() -> None:
    """Only missing heartbeats count: the first evaluation may take hours, unlike chunks."""
    made = controller(1)
    begin(made, 1)
    made.handle(Finished(0), now=0.1)
    made.handle(Begin([EvaluationChunk("test", ((0,),))], lanes=[0]), now=0.0)
    beats = Heartbeats().note({"client-0": 7}, now=19_800).note({"client-0": 7}, now=20_000)
    assert made.handle(Tick(beats), now=20_000) == []
    beats = beats.note({"client-0": 7}, now=20_101)
    assert made.handle(Tick(beats), now=20_101) == [Kill(0)], "silent for 301 s"


def test_the_time_of_a_chunk_counts_from_the_end_of_the_one_before_it() -> None:
    made = controller(1, stall_limit_s=60.0)
    begin(made, 2)
    made.handle(Finished(0), now=50.0)
    tick = Tick(Heartbeats())
    assert made.handle(tick, now=110.0) == []
    assert made.handle(tick, now=110.1) == [Kill(0)]


def test_groups_that_a_round_has_to_wait_for_are_named_with_their_actors() -> None:
    made = controller(0, groups=[0, 1])
    made.handle(Joined("client-2", 1, is_starting=True), now=0.0)
    assert made.groups_below(lambda group: 1) == {}
    assert made.groups_below(lambda group: 2) == {1: ["client-2"]}, "group 0 has none to wait for"
    made.handle(Back(2), now=0.0)
    assert made.groups_below(lambda group: 2) == {}
