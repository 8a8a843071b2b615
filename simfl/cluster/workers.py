"""The client actors: carries out the controller's decisions, and reports their results to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import ray
from ray.exceptions import RayError

from simfl.cluster.failures import cause_of, explain, is_actor_loss
from simfl.cluster.launch import Worker
from simfl.cluster.remote_server import LOOK_S, NOTICE_S, RemoteServer
from simfl.cluster.wire import Ref
from simfl.engine import Work, events
from simfl.engine.controller import Controller
from simfl.errors import ClusterError
from simfl.sections import ClusterSection

MANY = 16
"""The number of calls above which those that have ended are looked for together, as a look at each
one's end would take longer than many chunks do."""

Start: TypeAlias = Callable[[Any, Any], list[Ref]]
"""Starts a chunk on an actor; returns the references to its results, the small one first."""

Ended: TypeAlias = tuple[events.Assign, Any, list[Ref]]
"""A chunk that has been run: the first of its results, and references to the others."""


class ClientPool:
    """Client actors that are restarted when they die, or retired when their GPU is full.

    Args:
        start_with: references to the arguments of ``start`` after the setup, the data first.
        cluster: says when to give up on a chunk or on the actors.
        workload: returns the amount of work in a chunk.
        server: polled for the actors' heartbeats while chunks are running.
        notify: called with a message for the user.
    """

    def __init__(
        self,
        start_with: tuple[Ref, ...],
        *,
        cluster: ClusterSection,
        workload: Callable[[events.AnyChunk], Work],
        server: RemoteServer,
        notify: Callable[[str], None],
    ) -> None:
        self.workers: list[Worker] = []
        """All that have joined, by the controller's number."""
        self._start_with = start_with
        self._start_timeout_s = cluster.start_timeout_s
        self._server = server
        self._notify = notify
        self._controller = Controller(cluster, workload)
        self._calls: dict[Ref, tuple[events.Assign, list[Ref]]] = {}
        """By the reference to its first result, each chunk that runs."""
        self._starts: dict[Ref, int] = {}
        """The calls that build the hosts of restarted actors."""
        self._start_chunk: Start

    @property
    def members(self) -> list[Worker]:
        """The actors that are not retired, those included that are being restarted."""
        return [self.workers[number] for number in self._controller.members]

    @property
    def is_idle(self) -> bool:
        """Whether no actor has a chunk, or is being started."""
        return not (self._calls or self._starts)

    @property
    def is_done(self) -> bool:
        """Whether all chunks of the present pass have ended."""
        return self._controller.is_done

    def start(self, worker: Worker) -> Ref:
        """Have an actor build its host, once its process runs."""
        return worker.actor.start.remote(worker.setup, *self._start_with)

    def join(self, workers: Iterable[Worker], starting: Mapping[str, Ref]) -> None:
        """Take in actors.

        Args:
            workers: that have been launched.
            starting: by label, the calls by which some are started; they get work after that.
        """
        for worker in workers:
            is_starting = worker.label in starting
            if is_starting:
                self._starts[starting[worker.label]] = len(self.workers)
            self.workers.append(worker)
            self._report(events.Joined(worker.label, worker.group, is_starting))

    def await_members(self, least: Callable[[int], int]) -> None:
        """Wait until each group has enough actors for a round to begin.

        Args:
            least: how many actors of a group a round needs.

        Raises:
            ClusterError: if they do not come within ``start_timeout_s``.
        """
        deadline = time.monotonic() + self._start_timeout_s
        while below := self._controller.groups_below(least):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                group, labels = next(iter(below.items()))
                raise ClusterError(
                    f"{', '.join(labels)} did not come back within {self._start_timeout_s:g} s, "
                    f"and a round needs {least(group)} of its group; add nodes and resume with "
                    "--resume auto"
                )
            ready, _ = ray.wait(list(self._starts), num_returns=1, timeout=min(left_s, LOOK_S))
            self._server.look()
            for ref in ready:
                self._report(self._end_start(ref))

    def run(self, begin: events.Begin, start: Start) -> Iterator[list[Ended]]:
        """Run all chunks of a pass.

        Args:
            begin: the chunks, and who may run them.
            start: starts one of them.

        Yields:
            The chunks that have ended since the last time.

        Raises:
            RayError: for anything but the death of an actor.
            SimflError: if a chunk crashes its actor too often, or no actor comes back.
        """
        for _ in self._run_until_done():
            pass  # what a pass that failed has left on the actors
        self._start_chunk = start
        self._report(begin)
        yield from self._run_until_done()

    def _run_until_done(self) -> Iterator[list[Ended]]:
        looked = time.monotonic()
        while not self._controller.is_done:
            ready = self._wait()
            if time.monotonic() - looked >= LOOK_S:
                looked = time.monotonic()
                self._server.look()
                self._report(events.Tick(self._server.beats))
            ended: list[Ended] = []
            for ref in ready:
                if ref in self._starts:
                    self._report(self._end_start(ref))
                    continue
                assign, refs = self._calls.pop(ref)
                event, result = _end_call(assign, ref)
                self._report(event)
                if isinstance(event, events.Finished):
                    ended.append((assign, result, refs[1:]))
                del refs  # so that what they refer to is freed while others are waited for
            if ended:
                yield ended
            del ended

    def _wait(self) -> list[Ref]:
        """Wait until a call ends; of many calls, return all that have."""
        refs = [*self._calls, *self._starts]
        ready: list[Ref] = []
        if len(refs) > MANY:
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        if not ready:
            ready, _ = ray.wait(refs, num_returns=1, timeout=LOOK_S)
        return ready

    def _report(self, event: events.Event) -> None:
        """Report an event to the controller, and do what it says."""
        for action in self._controller.handle(event, now=time.monotonic()):
            match action:
                case events.Assign(_, number, _, chunk):
                    refs = self._start_chunk(self.workers[number].actor, chunk)
                    self._calls[refs[0]] = action, refs
                case events.Restart(number):
                    self._starts[self.start(self.workers[number])] = number
                case events.Kill(number):
                    ray.kill(self.workers[number].actor, no_restart=False)
                case events.Retire(number):
                    ray.kill(self.workers[number].actor)
                case events.Notify(message):
                    self._notify(message)
                case events.Abort(error):
                    raise error

    def _end_start(self, ref: Ref) -> events.Event:
        """Return whether an actor is back.

        Raises:
            SimflError: if it cannot build its host.
        """
        number = self._starts.pop(ref)
        try:
            ray.get(ref)
        except RayError as error:
            if not is_actor_loss(error):
                label = self.workers[number].label
                raise explain(error, doing=f"starting {label} again") from None
            # Until Ray has noticed the death, calls fail at once.
            time.sleep(NOTICE_S)
            return events.DiedAgain(number)
        return events.Back(number)


def _end_call(assign: events.Assign, ref: Ref) -> tuple[events.Event, Any]:
    """Return how a call has ended, and its result."""
    try:
        return events.Finished(assign.task), ray.get(ref)
    except RayError as error:
        cause = cause_of(error)
        ours = error if cause is events.Cause.OTHER else explain(error, doing=assign.describe())
        return events.Failed(assign.task, cause, ours), None
