"""The server's actor, which is restored to the start of the round when it dies."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayError

from simfl.cluster.failures import explain, is_actor_loss, is_object_loss
from simfl.cluster.wire import Ref, SnapshotRefs, open_parcel, pack, pack_broadcast
from simfl.engine.recovery import SILENT_S, Decision, Heartbeats, Loss, decide
from simfl.messages import Contribution, RoundPlan, RoundReport, Snapshot
from simfl.sections import ClusterSection
from simfl.states import StateFile

T = TypeVar("T")

LOOK_S = 1.0
"""The interval at which the driver checks for stalled actors, in seconds."""

WARN_S = 30.0
"""The time without an answer from the server after which a message is shown, in seconds."""

QUIET_S = 20.0
"""How long a watched actor may not answer, at least; it may be adding up large sums."""

NOTICE_S = 0.2
"""How long the driver waits before it calls a dead actor again, in seconds."""


class Partials(NamedTuple):
    """What a cohort's chunks add to a round, in the order in which they ended."""

    sent: list[Ref | None]
    """Those that the server was sent; None: it is not kept for a server that dies, but freed as
    soon as it was added."""
    received: list[Ref]
    """What ``receive`` has returned for these."""
    last: list[Ref]
    """Those that go with the call that ends the round: one call less."""


TrainAgain: TypeAlias = Callable[[], Partials]
"""Trains the cohort once more, which gives the same partials."""


class RemoteServer:
    """Calls the server's actor; what is lost with it is recovered.

    Args:
        actor: the server's.
        start_with: references to the arguments of its ``start``, the setup first.
        cluster: says how often it may die in a round, and how long it may not answer.
        notify: called with a message if it does not answer.
        require_cluster: raises ClusterError if Ray itself has failed.
    """

    def __init__(
        self,
        actor: Any,
        start_with: tuple[Ref, ...],
        *,
        cluster: ClusterSection,
        notify: Callable[[str], None] = lambda _: None,
        require_cluster: Callable[[], None] = lambda: None,
    ) -> None:
        self.actor = actor
        self.beats = Heartbeats()
        """The client actors' heartbeats, as counted by the server."""
        self._start_with = start_with
        self._max_retries = cluster.max_retries
        self._start_timeout_s = cluster.start_timeout_s
        self._silent_s = SILENT_S if cluster.stall_limit_s is None else cluster.stall_limit_s
        self._notify = notify
        self.require_cluster = require_cluster
        self._asked: Ref | None = None
        self._asked_at = time.monotonic()
        self._warned_of: Ref | None = None
        self._is_there = False
        self._address: tuple[str, int] | None = None
        self._building: Ref | None = None
        self._num_put = 0
        self._watched: dict[str, tuple[Any, Ref, float]] = {}

    def look(self) -> None:
        """Poll the heartbeat counts; kill the actor if it does not answer.

        Ray restarts it, and it counts as lost.

        Raises:
            ClusterError: if Ray itself has failed.
        """
        self.require_cluster()
        now = time.monotonic()
        self._look_at_watched(now)
        if self._asked is None:
            self._asked, self._asked_at = self.actor.heartbeats.remote(), now
            return
        ready, _ = ray.wait([self._asked], timeout=0)
        self._note_building(now)
        # A process may not answer while it imports modules.
        is_starting = self._building is not None or not self._is_there
        limit_s = self._start_timeout_s if is_starting else self._silent_s
        if ready:
            asked, self._asked = self._asked, None
            try:
                counts: dict[str, int] = ray.get(asked)  # type: ignore[assignment]
                self.beats = self.beats.note(counts, now=now)
                self._is_there = True
            except RayError:  # its other calls fail, too, and their callers handle it
                self._is_there = False
        elif now - self._asked_at > limit_s:
            self._asked, self._is_there, self._building = None, False, None
            ray.kill(self.actor, no_restart=False)
            self._notify(
                f"the server's process did not answer for {limit_s:.0f} s and was killed; it is "
                "restarted"
            )
        elif now - self._asked_at > WARN_S and not is_starting and self._warned_of != self._asked:
            self._warned_of = self._asked
            self._notify(
                f"the server's process has not answered for {WARN_S:.0f} s; after {limit_s:.0f} s "
                "it is killed and restarted"
            )

    def watch(self, label: str, actor: Any) -> None:
        """Kill an actor, which Ray restarts, whenever it does not answer for too long."""
        self._watched[label] = actor, actor.process_id.remote(), time.monotonic()

    def _look_at_watched(self, now: float) -> None:
        limit_s = max(self._silent_s, QUIET_S)
        for label, (actor, asked, since) in self._watched.items():
            if ray.wait([asked], timeout=0)[0]:
                self._watched[label] = actor, actor.process_id.remote(), now
            elif now - since > limit_s:
                ray.kill(actor, no_restart=False)
                self._notify(f"{label} did not answer for {limit_s:.0f} s and was killed")
                later = now + self._start_timeout_s
                self._watched[label] = actor, actor.process_id.remote(), later

    def _note_building(self, now: float) -> None:
        """Start timing the answers once the actor has built the server."""
        if self._building is not None and ray.wait([self._building], timeout=0)[0]:
            building, self._building = self._building, None
            with suppress(RayError):  # it has died, which its callers handle
                ray.get(building)
                self._is_there, self._asked_at = True, now

    def wait(self, refs: Sequence[Ref], *, timeout_s: float | None = None) -> None:
        """Wait until results are ready, or it is known that they never will be.

        All that the driver waits for depends on the server, so the server is polled meanwhile.

        Raises:
            GetTimeoutError: if that takes longer.
        """
        began, left = time.monotonic(), list(refs)
        while left:
            _, left = ray.wait(left, num_returns=len(left), timeout=LOOK_S, fetch_local=False)
            if left:
                self.look()
                if timeout_s is not None and time.monotonic() - began > timeout_s:
                    raise GetTimeoutError(f"no answer within {timeout_s:g} s")

    def get(self, refs: Any, *, timeout_s: float | None = None) -> Any:
        """Wait for results as ``wait`` does, and return them."""
        self.wait(refs if isinstance(refs, list) else [refs], timeout_s=timeout_s)
        return ray.get(refs)

    def build(self) -> Ref:
        """Have the actor build the server; a dead actor is restarted first."""
        self._is_there, self._address = False, None
        self._building = self.actor.start.remote(*self._start_with)
        return self._building

    def address(self) -> tuple[str, int] | None:
        """Return where client actors reach the server's; None if it has died, which others see."""
        if self._address is None:
            with suppress(RayError):
                self._address = self.get(self.actor.address.remote())
        return self._address

    def receive(self, partials: Sequence[Ref]) -> Ref:
        """Send the server partials of chunks that have ended."""
        return self.actor.receive.remote(*partials)

    def read_states(self, files: Sequence[StateFile]) -> Ref:
        """Read clients' states into the object store."""
        return self.actor.read_states.remote(files)

    def first(self) -> SnapshotRefs:
        """Return what the first round starts from, of a server that has just been built."""
        try:
            return self._snapshot(1)
        except RayError as error:
            if not is_actor_loss(error):
                raise explain(error, doing="starting the server") from None
            return self.start()

    def start(self) -> SnapshotRefs:
        """Build a new server, and return the snapshot at the start of round 1."""
        return self._until_back(lambda: self._rebuild(None, round=1), doing="starting the server")

    def put(self, snapshot: Snapshot) -> SnapshotRefs:
        """Put a snapshot into the object store."""
        self._num_put += 1  # its broadcast is another one than that of any round
        return SnapshotRefs(
            ray.put(pack_broadcast(snapshot.broadcast, share_aux=False, label=-self._num_put)),
            ray.put(pack(snapshot.state, label=snapshot.broadcast.round)),
        )

    def roll_back(self, snapshot: Snapshot) -> SnapshotRefs:
        """Restore the server from a snapshot; return what its round starts from."""
        round, start = snapshot.broadcast.round, self.put(snapshot)
        # The server collects auxiliary variables itself, so its own snapshot has them.
        return self._until_back(
            lambda: self._rebuild(start, round=round), doing="going back to a checkpoint"
        )

    def end_round(
        self, plan: RoundPlan, start: SnapshotRefs, partials: Partials, again: TrainAgain
    ) -> tuple[RoundReport, SnapshotRefs]:
        """Take the server's step; a server that died is restored, and gets the partials again.

        Args:
            plan: of the round.
            start: what the round started from.
            partials: those of all its chunks.
            again: called if partials are needed that are not kept.

        Raises:
            RayError: for anything but the server's death.
        """

        def call(rest: Sequence[Ref]) -> list[Ref]:
            method = self.actor.end_round.options(num_returns=3)
            refs: list[Ref] = method.remote(plan, *rest)
            return refs

        report, *following = self._finish(call, plan, start, partials, again)
        return report, SnapshotRefs(*following)

    def add_up(
        self, plan: RoundPlan, start: SnapshotRefs, partials: Partials, again: TrainAgain
    ) -> Contribution | None:
        """Fetch the sum of the partials; the arguments and errors are those of ``end_round``."""

        def call(rest: Sequence[Ref]) -> list[Ref]:
            return [self.actor.add_up.remote(plan, *rest)]

        (parcel,) = self._finish(call, plan, start, partials, again)
        total: Contribution | None = open_parcel(parcel)
        return total

    def _finish(
        self,
        call: Callable[[Sequence[Ref]], list[Ref]],
        plan: RoundPlan,
        start: SnapshotRefs,
        partials: Partials,
        again: TrainAgain,
    ) -> list[Any]:
        """Call the server with the partials that it lacks; return the first result, and refs."""
        attempt = 0
        while True:
            attempt += 1
            first, *others = call(partials.last)
            try:
                # All that the call returns is in the object store once a part of it is.
                done = self.get([*partials.received, first])
                return [done[-1], *others]
            except RayError as error:
                if not is_actor_loss(error):
                    raise
                decision = decide(Loss.SERVER_ACTOR, attempt=attempt, max_retries=self._max_retries)
                if decision is Decision.ABORT:
                    raise explain(error, doing=f"ending round {plan.round}") from None
            known = [*partials.sent, *partials.last]
            if None in known:
                self.restore(start)
                partials = again()
            else:
                partials = Partials(known, self.restore(start, known), [])

    def restore(self, start: SnapshotRefs, partials: Sequence[Ref] = ()) -> list[Ref]:
        """Restore the server to the start of a round, and send it these partials.

        It discards everything else that it has received.

        Raises:
            RayError: if the snapshot, or a partial, has been lost.
        """

        def restored() -> list[Ref]:
            calls = self._restart(start)
            received = [self.receive([partial]) for partial in partials]
            self.get([*calls, *received], timeout_s=self._start_timeout_s)
            return received

        return self._until_back(restored, doing="restoring the server")

    def _rebuild(self, start: SnapshotRefs | None, *, round: int) -> SnapshotRefs:
        self.get(self._restart(start), timeout_s=self._start_timeout_s)
        return self._snapshot(round)

    def _restart(self, start: SnapshotRefs | None) -> list[Ref]:
        """Call the actor to build the server, and to restore it from a snapshot if there is one."""
        calls = [self.build()]
        if start is not None:
            calls.append(self.actor.restore.remote(start.broadcast, start.state))
        return calls

    def _snapshot(self, round: int) -> SnapshotRefs:
        """Return the server's snapshot, once it is in the object store and outlives the server."""
        both = self.actor.snapshot.options(num_returns=2).remote(round)
        refs = SnapshotRefs(*both)
        self.wait(both)
        ray.get(refs.state)  # raises an error if the server died before
        return refs

    def _until_back(self, call: Callable[[], T], *, doing: str) -> T:
        """Repeat a call until the actor answers: until Ray notices a death, calls fail at once."""
        deadline = time.monotonic() + self._start_timeout_s
        while True:
            try:
                return call()
            except RayError as error:
                if is_object_loss(error):
                    raise
                if not is_actor_loss(error) or time.monotonic() > deadline:
                    raise explain(error, doing=doing) from None
            time.sleep(NOTICE_S)
