"""The controller under events in any order: no chunk is lost or run twice, and every pass ends."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from simfl.engine.controller import IN_FLIGHT, Controller
from simfl.engine.events import (
    Abort,
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
from simfl.messages import Chunk
from simfl.sections import ClusterSection

FEW = 500
"""Events after which every pass must have ended."""


class World:
    """Actors that finish chunks, die, stall and run out of memory, and that check each action."""

    def __init__(self, random: Random) -> None:
        self.random, self.now = random, 0.0
        limits = ClusterSection(
            max_retries=random.choice([0, 1, 5]), stall_limit_s=60.0, start_timeout_s=100.0
        )
        self.controller = Controller(limits, lambda chunk: (1.0,))
        self.groups: list[int] = []
        self.lanes: list[int] = []
        self.running: dict[int, Assign] = {}
        self.lost: set[int] = set()
        """The tasks of actors that have died, which will fail."""
        self.away: set[int] = set()
        self.retired: set[int] = set()
        self.ended = Counter[int]()
        self.is_aborted = False
        for group in [0, 1, *random.choices([0, 1], k=random.randint(0, 3))]:
            self.join(group, is_starting=random.random() < 0.2)

    def join(self, group: int, *, is_starting: bool) -> None:
        number = len(self.groups)
        self.groups.append(group)
        if is_starting:
            self.away.add(number)
        self.handle(Joined(f"client-{number}", group, is_starting))

    def handle(self, event: Event) -> None:
        for action in self.controller.handle(event, now=self.now):
            assert not self.is_aborted or isinstance(action, (Kill, Restart))
            match action:
                case Assign(task, number, label, chunk):
                    assert isinstance(chunk, Chunk)
                    assert number not in self.away | self.retired
                    assert label == f"client-{number}"
                    assert self.lanes[number] == chunk.group
                    assert self.ended[chunk.start] == 0
                    assert all(other.chunk != chunk for other in self.running.values())
                    assert task not in self.running
                    self.running[task] = action
                    assert len(self.tasks_of(number)) <= IN_FLIGHT
                case Restart(number):
                    assert number not in self.away | self.retired
                    self.away.add(number)
                case Kill(number):
                    assert number not in self.retired
                    assert self.tasks_of(number)
                    self.lost |= {*self.tasks_of(number)}
                case Retire(number):
                    assert number not in self.retired
                    self.retired.add(number)
                    self.lost |= {*self.tasks_of(number)}
                    assert any(
                        n not in self.retired and group == self.groups[number]
                        for n, group in enumerate(self.groups)
                    )
                case Abort(error):
                    assert str(error)
                    assert not str(error).startswith(" ")
                    self.is_aborted = True
                case Notify(message):
                    assert message

    def tasks_of(self, number: int) -> list[int]:
        return [task for task, assign in self.running.items() if assign.actor == number]

    def one_event(self) -> None:
        """Let something happen; once an abort has been handled, only what still runs ends."""
        self.now += self.random.choice([0.0, 0.0, 1.0, 30.0])
        away = sorted(self.away - self.retired)
        choice = self.random.random()
        if choice < 0.1 or not (self.running or away):
            self.now += 30.0
            self.handle(Tick(Heartbeats()))
        elif away and (choice < 0.3 or not self.running):
            number = self.random.choice(away)
            self.away.discard(number)
            if self.random.random() < 0.7:
                self.handle(Back(number))
            else:
                self.handle(DiedAgain(number))
        else:
            self.end_a_task()

    def end_a_task(self) -> None:
        task = self.random.choice([*self.running])
        if task not in self.lost:  # only the first one of its actor runs
            task = self.tasks_of(self.running[task].actor)[0]
        number, choice = self.running[task].actor, self.random.random()
        if task in self.lost:
            event: Event = Failed(task, Cause.DIED, ClusterError("its process died"))
        elif choice < 0.7:
            event = Finished(task)
        elif choice < 0.9:
            self.lost |= {*self.tasks_of(number)}
            event = Failed(task, Cause.DIED, ClusterError("its process died"))
        else:
            causes = [Cause.UNBUILT, Cause.DEVICE_FULL, Cause.DEVICE_FULL, Cause.OTHER]
            event = Failed(task, self.random.choice(causes), ClusterError("what Ray says"))
        chunk = self.running.pop(task).chunk
        self.lost.discard(task)
        if isinstance(event, Finished):
            assert isinstance(chunk, Chunk)
            self.ended[chunk.start] += 1
        self.handle(event)

    def a_pass(self) -> None:
        # A group's actors train its clients, or each actor its own, as with dedicated placement.
        is_dedicated = self.random.random() < 0.3
        self.lanes = [*range(len(self.groups))] if is_dedicated else self.groups
        chosen = [self.random.choice(self.lanes) for _ in range(self.random.randint(1, 12))]
        chunks = [Chunk(7, start, (start,), 100, lane) for start, lane in enumerate(chosen)]
        self.ended, self.is_aborted = Counter(), False
        self.handle(Begin(chunks, lanes=self.lanes))
        for _ in range(FEW):
            if self.controller.is_done:
                break
            self.one_event()
        assert self.controller.is_done
        assert not self.running
        if not self.is_aborted:
            assert self.ended == Counter(range(len(chunks)))


@given(st.integers(0, 2**32))
def test_every_pass_runs_each_chunk_once_or_aborts(seed: int) -> None:
    # A seed, as hypothesis's own numbers may repeat one event for ever, which no pass survives.
    random = Random(seed)
    world = World(random)
    for _ in range(3):
        world.a_pass()
        if random.random() < 0.3:
            world.join(random.choice([0, 1]), is_starting=random.random() < 0.5)
