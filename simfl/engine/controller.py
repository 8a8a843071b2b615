"""The controller of the client actors: which actor runs which chunk, and what follows a loss.

It decides and does not act: events go in, actions come out, and the time comes with each event. It
does no I/O and does not know Ray, so a list of events is all that a test needs. The design is that
of dask's worker state machine
(https://distributed.dask.org/en/stable/worker-state.html).

A lost chunk can be run again, on any actor of its lane, since its result depends on its message,
the clients' states and the data alone.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from simfl.engine.chunks import ChunkQueue, Work
from simfl.engine.events import (
    Abort,
    Action,
    AnyChunk,
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
from simfl.engine.recovery import Decision, Heartbeats, Loss, StallWatch, decide
from simfl.errors import ClusterError
from simfl.messages import Chunk, EvaluationChunk
from simfl.sections import ClusterSection

IN_FLIGHT = 2
"""Chunks at an actor: one that runs, and one whose arguments are fetched meanwhile. While another
actor of the lane is being started, each has only one, so that the other one finds work."""

_REMEDY = "lower client.stack, client.batch_size or the size of the model, or raise num_gpus"


@dataclass(eq=False)
class _Task:
    assign: Assign
    work: Work
    since: float
    """When the actor could begin with it."""
    stalled_s: float | None = None
    """How long it had run when its actor was killed; None: it was not killed for this task."""
    only_waited: bool = False
    """Whether its actor died while it ran an earlier task."""


@dataclass
class _Actor:
    label: str
    group: int
    is_away: bool
    """Whether it is being started."""
    is_retired: bool = False
    lane: Hashable = None
    place: str = ""
    """The node that it is on, as far as known."""
    tasks: list[_Task] = field(default_factory=list)
    """The first is the one that runs; the others only wait at the actor."""


class Controller:
    """Assigns chunks in order, a few at a time, to actors that have room.

    >>> controller = Controller(ClusterSection(), lambda chunk: (1.0,))
    >>> controller.handle(Joined("client-0", 0, is_starting=False), now=0.0)
    []
    >>> chunks = [Chunk(1, start, (start,), 3) for start in range(3)]
    >>> [action.chunk.start for action in controller.handle(Begin(chunks, lanes=[0]), now=0.0)]
    [0, 1]
    >>> [action.chunk.start for action in controller.handle(Finished(0), now=1.0)]
    [2]

    Args:
        cluster: says when to give up on a chunk or on the actors.
        workload: returns the amount of work in a chunk.
    """

    def __init__(self, cluster: ClusterSection, workload: Callable[[AnyChunk], Work]) -> None:
        self._cluster = cluster
        self._workload = workload
        self._actors: list[_Actor] = []
        self._watches: defaultdict[Hashable, StallWatch] = defaultdict(
            lambda: StallWatch(cluster.stall_limit_s)
        )
        self._tasks: dict[int, _Task] = {}
        self._numbers = itertools.count()
        self._queues: dict[Hashable, ChunkQueue[AnyChunk]] = {}
        self._losses: Counter[Hashable] = Counter()
        self._num_away = 0
        self._is_abandoned = False
        self._idle_since: float | None = None

    @property
    def is_done(self) -> bool:
        """Whether every chunk of the pass has been handed out and has ended."""
        return not self._tasks and not any(self._queues.values())

    @property
    def members(self) -> list[int]:
        """The actors that are not retired, those included that are being started."""
        return [number for number, actor in enumerate(self._actors) if not actor.is_retired]

    def groups_below(self, least: Callable[[int], int]) -> dict[int, list[str]]:
        """Return the groups with too few actors to begin a round, while some are being started.

        Args:
            least: how many actors of a group a round needs.

        Returns:
            By group, the labels of the actors that are being started.
        """
        ready = Counter(a.group for a in self._actors if not (a.is_away or a.is_retired))
        starting: defaultdict[int, list[str]] = defaultdict(list)
        for actor in self._starting():
            starting[actor.group].append(actor.label)
        return {group: starting[group] for group in sorted(starting) if ready[group] < least(group)}

    def handle(self, event: Event, *, now: float) -> list[Action]:
        """Take in an event; return what to do now, in order.

        Args:
            event: what has happened.
            now: the time in seconds, of a clock that never goes back.
        """
        numbers = self._with_room_after(event)
        actions = self._react(event, now)
        actions += self._assign(now, numbers)
        actions += self._check_idle(now)
        return actions

    def _abort(self, error: Exception) -> list[Action]:
        self._is_abandoned, self._queues = True, {}
        return [Abort(error)]

    def _react(self, event: Event, now: float) -> list[Action]:
        match event:
            case Joined(label, group, is_starting):
                self._actors.append(_Actor(label, group, is_starting))
                self._num_away += is_starting
            case Begin():
                self._begin(event)
            case Finished(number):
                self._finish(number, now)
            case Failed():
                return self._fail(event, now)
            case Back(number):
                self._end_absence(number)
            case DiedAgain(number):
                self._end_absence(number)
                return self._call_back(number)
            case Tick(beats):
                return self._kill_stalled(beats, now)
        return []

    def _begin(self, event: Begin) -> None:
        self._is_abandoned, self._idle_since = False, None
        self._losses = Counter()
        chunks: dict[Hashable, list[AnyChunk]] = {lane: [] for lane in event.lanes}
        for chunk in event.chunks:
            chunks[event.lane_of(chunk)].append(chunk)
        places: defaultdict[Hashable, list[str]] = defaultdict(list)
        on = event.places or [""] * len(self._actors)
        for actor, lane, place in zip(self._actors, event.lanes, on, strict=True):
            actor.lane, actor.place = lane, place
            if not actor.is_retired:
                places[lane].append(place)
        self._queues = {lane: ChunkQueue(own, places[lane]) for lane, own in chunks.items()}

    def _with_room_after(self, event: Event) -> Sequence[int]:
        """Return the actors that may have room for chunks that wait.

        As long as chunks wait, all actors have what they can take; so when a task has ended, it is
        that actor alone, without a look at a thousand others.
        """
        if isinstance(event, Finished):
            return (self._tasks[event.task].assign.actor,)
        return range(len(self._actors))

    def _assign(self, now: float, numbers: Sequence[int]) -> list[Action]:
        """Assign chunks to those of these actors that have room, the least loaded first."""
        if not any(self._queues.values()):
            return []
        starting = {actor.lane for actor in self._starting()} if self._num_away else ()
        assigned: list[Action] = []
        for room in range(1, IN_FLIGHT + 1):
            for number in numbers:
                actor = self._actors[number]
                queue = self._queues.get(actor.lane)
                most = 1 if actor.lane in starting else room
                if queue and len(actor.tasks) < most and not (actor.is_away or actor.is_retired):
                    assigned.append(self._start(number, queue.take(actor.place), now))
        return assigned

    def _start(self, number: int, chunk: AnyChunk, now: float) -> Assign:
        actor, retries = self._actors[number], self._losses[_identity(chunk)]
        assign = Assign(next(self._numbers), number, actor.label, chunk, retries)
        task = self._tasks[assign.task] = _Task(assign, self._workload(chunk), now)
        actor.tasks.append(task)
        return assign

    def _finish(self, number: int, now: float) -> None:
        task = self._remove(number, now)
        if not self._is_abandoned:
            self._watch(task.assign.chunk).learn(task.work, now - task.since)

    def _remove(self, number: int, now: float) -> _Task:
        """Take away a task that has ended; the time of the next one counts from now on."""
        task = self._tasks.pop(number)
        tasks = self._actors[task.assign.actor].tasks
        tasks.remove(task)
        if tasks:
            tasks[0].since = now
        return task

    def _fail(self, event: Failed, now: float) -> list[Action]:
        task = self._tasks[event.task]
        actor = self._actors[task.assign.actor]
        is_first = actor.tasks[0] is task
        self._remove(event.task, now)
        is_gone = event.cause in (Cause.DIED, Cause.UNBUILT)
        if is_first and is_gone:
            for waiting in actor.tasks:
                waiting.only_waited = True
        if self._is_abandoned:
            return self._call_back(task.assign.actor) if is_gone else []
        if event.cause is Cause.OTHER:
            return self._abort(event.error)
        if event.cause is Cause.DEVICE_FULL:
            return self._retire(task)
        is_to_blame = event.cause is Cause.DIED and is_first and not task.only_waited
        return self._lose(task, event.error, is_to_blame=is_to_blame and not actor.is_retired)

    def _lose(self, task: _Task, error: Exception, *, is_to_blame: bool) -> list[Action]:
        """Run a chunk again, unless it has brought down too many actors."""
        identity = _identity(task.assign.chunk)
        self._losses[identity] += is_to_blame
        attempt = max(1, self._losses[identity])
        decision = decide(Loss.CLIENT_ACTOR, attempt=attempt, max_retries=self._cluster.max_retries)
        if decision is Decision.ABORT:
            return self._abort(error if task.stalled_s is None else _stall_error(task))
        self._requeue(task)
        return self._call_back(task.assign.actor)

    def _retire(self, task: _Task) -> list[Action]:
        """Retire the actor, so that the others have more of the GPU's memory."""
        number, doing = task.assign.actor, task.assign.describe()
        actor, actions = self._actors[number], list[Action]()
        if not actor.is_retired:
            if self._num_members(actor.group) < 2:
                return self._abort(_full_memory_error(doing))
            actor.is_retired = True
            actions.append(Retire(number))
        self._requeue(task)
        left = self._num_members(actor.group)
        message = f"its GPU's memory is full; the actor was stopped, {left} of its group continue"
        return [*actions, Notify(f"{doing}: {message}")]

    def _requeue(self, task: _Task) -> None:
        """Make a lost chunk the next one of its lane."""
        actor = self._actors[task.assign.actor]
        self._queues[actor.lane].put_back(task.assign.chunk, actor.place)

    def _call_back(self, number: int) -> list[Action]:
        actor = self._actors[number]
        if actor.is_away or actor.is_retired:
            return []
        actor.is_away = True
        self._num_away += 1
        return [Restart(number)]

    def _end_absence(self, number: int) -> None:
        self._actors[number].is_away = False
        self._num_away -= 1

    def _kill_stalled(self, beats: Heartbeats, now: float) -> list[Action]:
        kills: list[Action] = []
        for number, actor in enumerate(self._actors):
            if not actor.tasks or actor.is_retired:
                continue
            task, ran_s = actor.tasks[0], now - actor.tasks[0].since
            silent_s = beats.silent_s(actor.label, since=task.since)
            watch = self._watch(task.assign.chunk)
            if watch.is_overdue(task.work, ran_s=ran_s, silent_s=silent_s):
                task.stalled_s = task.stalled_s or ran_s
                task.since = now  # so that it is not killed again before the task fails
                kills.append(Kill(number))
        return kills

    def _check_idle(self, now: float) -> list[Action]:
        """Give up when all actors that could do the work are retired, or away for too long."""
        if self._tasks or self.is_done:
            self._idle_since = None
            return []
        if not any(self._queues.get(self._actors[number].lane) for number in self.members):
            return self._abort(
                ClusterError(
                    "the actors of some clients were stopped, since their GPU's memory was full; "
                    + _REMEDY
                )
            )
        if self._idle_since is None:
            self._idle_since = now
        if now - self._idle_since <= self._cluster.start_timeout_s:
            return []
        labels = ", ".join(actor.label for actor in self._starting())
        return self._abort(
            ClusterError(
                f"{labels} died and could not be started again within "
                f"{self._cluster.start_timeout_s:g} s; check that the cluster has room for them"
            )
        )

    def _watch(self, chunk: AnyChunk) -> StallWatch:
        """Return the watch for chunks of this kind.

        Training and evaluation on each split are timed separately, and so is each group, which has
        its own devices.
        """
        kind = chunk.split if isinstance(chunk, EvaluationChunk) else "train"
        return self._watches[kind, chunk.group]

    def _starting(self) -> list[_Actor]:
        return [actor for actor in self._actors if actor.is_away and not actor.is_retired]

    def _num_members(self, group: int) -> int:
        return sum(self._actors[number].group == group for number in self.members)


def _identity(chunk: AnyChunk) -> Hashable:
    """Return what tells a chunk from the others of its pass."""
    return chunk.start if isinstance(chunk, Chunk) else chunk.items


def _full_memory_error(doing: str) -> ClusterError:
    return ClusterError(
        f"{doing}: the GPU's memory is full, and no other actor of its group is left to stop; "
        + _REMEDY
    )


def _stall_error(task: _Task) -> ClusterError:
    return ClusterError(
        f"{task.assign.describe()}: not done after {task.stalled_s:.0f} s, and so its process was "
        "killed; raise cluster.stall_limit_s if it may take that long, or run it with "
        "--backend inline"
    )
