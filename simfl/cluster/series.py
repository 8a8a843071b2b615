"""Series of brief rounds, which the actors run among themselves.

A round of 30 ms on two actors spends a third of its time in calls, which go through the driver.
So the driver hands out the chunks of several rounds in one call of each actor; partials and
broadcasts go from actor to actor (``links.py``), and only the last broadcast is returned. The next
series is begun as soon as one has ended, before the driver looks at what its rounds have reported.

A series succeeds as a whole, or is without effect: if anything is lost or fails, the server is
restored to where it began, and its rounds are run one by one.
"""

from __future__ import annotations

import math
import secrets
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import ray
from ray.exceptions import GetTimeoutError, RayError

from simfl.cluster.cohorts import Cohorts
from simfl.cluster.failures import is_actor_loss
from simfl.cluster.launch import Worker
from simfl.cluster.links import KEY_BYTES, Meeting
from simfl.cluster.remote_server import LOOK_S, RemoteServer
from simfl.cluster.wire import Ref, SnapshotRefs
from simfl.cluster.workers import ClientPool
from simfl.engine import Trained
from simfl.engine.recovery import StallWatch
from simfl.messages import Chunk, ChunkTrace, RoundPlan, RoundTrace

BRIEF_S = 1.0
"""How long a round may take for its calls to matter."""

LONG_S = 0.5
"""How long a series may take that has several rounds; a run that ends early waits for its end."""

NOTICE_DEATH_S = 5.0
"""How long Ray may take to notice that an actor has died, on a busy machine."""

MOST_ROUNDS = 64
"""The most rounds of a series."""

Shares: TypeAlias = list[tuple[Worker, list[list[Chunk]]]]
"""Of each actor, its chunks in each round."""


@dataclass(frozen=True)
class _Begun:
    """A series whose calls have been made."""

    plans: Sequence[RoundPlan]
    handle: SnapshotRefs
    """What it begins with."""
    key: bytes
    shares: Shares
    refs: list[Ref]
    """What the server's actor returns: the rounds' reports, and the last one's snapshot."""
    calls: list[Ref]
    """What the client actors return, in the order of ``shares``."""

    @property
    def following(self) -> SnapshotRefs:
        """What it ends with."""
        return SnapshotRefs(*self.refs[1:])


class SeriesRunner:
    """Runs rounds in series, where they are brief.

    Args:
        server: takes the steps.
        pool: the client actors.
        cohorts: cuts cohorts, and learns how long chunks take.
        is_possible: whether any actor may train any client of its group, which keeps nothing.
        stall_limit_s: after how many seconds a series is given up; None: the least of chunks.
    """

    def __init__(
        self,
        server: RemoteServer,
        pool: ClientPool,
        cohorts: Cohorts,
        *,
        is_possible: bool,
        stall_limit_s: float | None,
    ) -> None:
        self._server, self._pool, self._cohorts = server, pool, cohorts
        self._is_possible = is_possible
        self._limit_s = stall_limit_s or StallWatch.SILENT_AT_LEAST_S
        self._ahead: _Begun | None = None
        self._seconds = math.inf
        """How long a round has taken last."""
        self._num_failed, self._pause = 0, 0
        self._num_repeated = 0
        """How many of the next rounds were begun in a series that lost an actor."""
        self._must_restore = False

    @property
    def length(self) -> int:
        """The number of rounds that a series should have."""
        return min(max(1, int(LONG_S / self._seconds)), MOST_ROUNDS) if self._is_possible else 1

    def run(
        self, plans: Sequence[RoundPlan], handle: SnapshotRefs, following: Sequence[RoundPlan]
    ) -> list[Trained]:
        """Run rounds as a series; return nothing if they are to be run one by one.

        Args:
            plans: of the rounds.
            handle: what the first one starts from.
            following: of the next series, which is begun if this one succeeds.

        Raises:
            ClusterError: if Ray itself has failed.
        """
        begun, self._ahead = self._ahead, None
        if begun is None or begun.plans != plans or begun.handle != handle:
            self._call_off(begun)
            begun = self._begin(plans, handle)
        if begun is None:
            self._pause = max(0, self._pause - 1)
            return []
        try:
            reported, *reports = self._collect(begun)
        except RayError as error:
            self._fail(begun, error)
            return []
        self._num_failed = 0
        if following:
            self._ahead = self._begin(following, begun.following)
        return self._trained(begun, reported, reports)

    def leave(self) -> bool:
        """Leave what was begun ahead; return whether the server is to be restored."""
        begun, self._ahead = self._ahead, None
        self._call_off(begun)
        must_restore, self._must_restore = self._must_restore, False
        return must_restore

    def take(self, single: Trained) -> Trained:
        """Learn from a round that was run by itself; if it was part of a series before, say so."""
        self._learn([single])
        if not self._num_repeated:
            return single
        self._num_repeated -= 1
        chunks = tuple(replace(one, retries=one.retries + 1) for one in single.trace.chunks)
        return single._replace(trace=replace(single.trace, chunks=chunks))

    def _learn(self, done: Sequence[Trained]) -> None:
        """Learn how long the next rounds may take."""
        seconds = [trace.train_s + trace.aggregate_s for _, trace, _ in done]
        self._seconds = sum(seconds) / len(seconds)

    def _begin(self, plans: Sequence[RoundPlan], handle: SnapshotRefs) -> _Begun | None:
        """Make the calls of a series; None if its rounds are not brief, or not all actors idle."""
        is_worth_it = self._is_possible and self._seconds < BRIEF_S and not self._cohorts.sends_much
        if not is_worth_it or self._must_restore or self._pause or not self._pool.is_idle:
            return None
        shares = self._share(plans)
        address = self._server.address()
        if address is None:
            return None
        key = secrets.token_bytes(KEY_BYTES)
        meeting = Meeting(address, key)
        run = self._server.actor.run_series.options(num_returns=3)
        return _Begun(
            plans,
            handle,
            key,
            shares,
            run.remote(meeting, plans, len(shares)),
            [
                worker.actor.train_series.remote(meeting, chunks, handle.broadcast)
                for worker, chunks in shares
            ],
        )

    def _share(self, plans: Sequence[RoundPlan]) -> Shares:
        """Return what each actor trains; those that train nothing are left out."""
        members: defaultdict[int, list[Worker]] = defaultdict(list)
        for worker in self._pool.members:
            members[worker.group].append(worker)
        shares: dict[str, list[list[Chunk]]] = {
            worker.label: [[] for _ in plans] for worker in self._pool.members
        }
        for index, plan in enumerate(plans):
            for part in plan.split():
                own = members[part.group]
                for worker, chunks in zip(
                    own, self._cohorts.share(plan, part, len(own)), strict=False
                ):
                    shares[worker.label][index] = chunks
        return [(w, shares[w.label]) for w in self._pool.members if any(shares[w.label])]

    def _collect(self, begun: _Begun) -> list[Any]:
        """Wait for all that a series returns, or for the first error."""
        refs = [begun.refs[0], *begun.calls]
        left, deadline = refs, time.monotonic() + self._limit_s
        while left:
            ready, left = ray.wait(left, num_returns=1, timeout=LOOK_S, fetch_local=False)
            ray.get(ready)
            if not ready:
                self._server.look()
                if time.monotonic() > deadline:
                    raise GetTimeoutError(f"a series has not ended within {self._limit_s:g} s")
        return ray.get(refs)

    def _trained(
        self, begun: _Begun, reported: Sequence[Any], reports: Sequence[Any]
    ) -> list[Trained]:
        """Return the rounds of a series, and learn from the last one."""
        done: list[Trained] = []
        num_actors = len(self._pool.members)
        for index, (report, train_s, aggregate_s) in enumerate(reported):
            traces = [
                (worker.group, ChunkTrace(report_of_chunk, worker.label))
                for (worker, _), own in zip(begun.shares, reports, strict=True)
                for report_of_chunk in own[index]
            ]
            traces.sort(key=lambda one: one[1].report.start)
            chunks = tuple(trace for _, trace in traces)
            done.append(Trained(report, RoundTrace(chunks, train_s, aggregate_s, num_actors), None))
        self._cohorts.learn(traces)
        self._learn(done)
        return [*done[:-1], done[-1]._replace(handle=begun.following)]

    def _fail(self, begun: _Begun, error: RayError) -> None:
        """Have its rounds run one by one, and more if the series before has failed, too."""
        self._num_failed += 1
        self._pause = (len(begun.plans) << min(self._num_failed - 1, 10)) - 1
        self._call_off(begun)
        is_late = isinstance(error, GetTimeoutError)
        self._num_repeated = len(begun.plans) if not is_late and _has_lost_actor(begun) else 0

    def _call_off(self, begun: _Begun | None) -> None:
        """Have the server's actor leave a series, so that the client actors do, too."""
        if begun is not None:
            self._server.actor.call_off.remote(begun.key)
            self._server.wait(begun.refs[:1])
            self._must_restore = True


def _has_lost_actor(begun: _Begun) -> bool:
    """Return whether any call of a series that was called off has ended with its actor's death."""
    refs = [*begun.refs, *begun.calls]  # all, since Ray prints errors never retrieved
    ended, _ = ray.wait(refs, num_returns=len(refs), timeout=NOTICE_DEATH_S, fetch_local=False)
    for ref in ended:
        try:
            ray.get(ref)
        except RayError as error:
            if is_actor_loss(error):
                return True
    return False
