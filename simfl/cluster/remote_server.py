"""The server's actor, which is put back to where the round started when it dies."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayError

from simfl.cluster.failures import explain, is_actor_loss, is_object_loss
from simfl.cluster.references import Ref, SnapshotRefs
from simfl.cluster.wire import pack, pack_broadcast
from simfl.engine.recovery import SILENT_S, Decision, Heartbeats, Limits, Loss, decide
from simfl.messages import RoundPlan, RoundReport, Snapshot
from simfl.states import StateFile

T = TypeVar("T")

LOOK_S = 1.0
"""How long the driver waits at a time before it checks for stalled actors."""

WARN_S = 30.0
"""After how many seconds without an answer of the server the driver says so."""

NOTICE_S = 0.2
"""How long it waits before it calls a dead actor again."""


class RemoteServer:
    """Calls the server's actor; what dies with it is done again.

    Args:
        actor: the server's.
        setup: what it is started with.
        limits: when to give up on it.
        notify: called with a message if it does not answer.
        require_cluster: raises ClusterError if Ray itself has failed.
    """

    def __init__(
        self,
        actor: Any,
        setup: Ref,
        *,
        limits: Limits,
        notify: Callable[[str], None] = lambda _: None,
        require_cluster: Callable[[], None] = lambda: None,
    ) -> None:
        self.actor = actor
        self.beats = Heartbeats()
        """The client actors' heartbeats, as counted by the server."""
        self._setup = setup
        self._max_retries = limits.max_retries
        self._start_timeout_s = limits.start_timeout_s
        self._silent_s = SILENT_S if limits.stall_limit_s is None else limits.stall_limit_s
        self._notify = notify
        self.require_cluster = require_cluster
        self._asked: Ref | None = None
        self._asked_at = time.monotonic()
        self._warned_of: Ref | None = None
        self._is_there = False
        self._building: Ref | None = None

    def look(self) -> None:
        """Poll the heartbeat counts; kill the actor if it does not answer.

        Ray restarts it, and it counts as lost.

        Raises:
            ClusterError: if Ray itself has failed.
        """
        self.require_cluster()
        now = time.monotonic()
        if self._asked is None:
            self._asked, self._asked_at = self.actor.heartbeats.remote(), now
            return
        ready, _ = ray.wait([self._asked], timeout=0)
        self._note_building(now)
        # A process may not answer while it imports its modules.
        is_starting = self._building is not None or not self._is_there
        limit_s = self._start_timeout_s if is_starting else self._silent_s
        if ready:
            asked, self._asked = self._asked, None
            try:
                counts: dict[str, int] = ray.get(asked)  # type: ignore[assignment]
                self.beats = self.beats.note(counts, now=now)
                self._is_there = True
            except RayError:  # its other calls fail, too, and their callers recover
                self._is_there = False
        elif now - self._asked_at > limit_s:
            self._asked, self._is_there, self._building = None, False, None
            ray.kill(self.actor, no_restart=False)
            self._notify(
                f"the server's process did not answer for {limit_s:.0f} s and was killed; it is "
                "started again"
            )
        elif now - self._asked_at > WARN_S and not is_starting and self._warned_of != self._asked:
            self._warned_of = self._asked
            self._notify(
                f"the server's process has not answered for {WARN_S:.0f} s; after {limit_s:.0f} s "
                "it is killed and started again"
            )

    def _note_building(self, now: float) -> None:
        """Start timing the answers once the actor has built the server."""
        if self._building is not None and ray.wait([self._building], timeout=0)[0]:
            building, self._building = self._building, None
            with suppress(RayError):  # it has died: its callers recover
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

    def first(self) -> SnapshotRefs:
        """Return what the first round starts from, of a server that has just been built."""
        try:
            return self._settled(self._snapshot(1))
        except RayError as error:
            if not is_actor_loss(error):
                raise explain(error, doing="starting the server") from None
            return self.start()

    def start(self) -> SnapshotRefs:
        """Build the server anew, and return what the first round starts from."""

        def fresh() -> SnapshotRefs:
            built = self.build()
            refs = self._snapshot(1)
            self.get(built, timeout_s=self._start_timeout_s)
            return self._settled(refs)

        return self._until_back(fresh, doing="starting the server")

    def build(self) -> Ref:
        """Have the actor build the server; a dead actor is restarted first."""
        self._is_there = False
        self._building = self.actor.start.remote(self._setup)
        return self._building

    def receive(self, partial: Ref) -> Ref:
        """Hand the server a chunk's partial."""
        return self.actor.receive.remote(partial)

    def read_state(self, state: StateFile) -> Ref:
        """Read a client's state into the object store."""
        return self.actor.read_state.remote(state)

    def end_round(
        self, plan: RoundPlan, start: SnapshotRefs, partials: Sequence[Ref], received: Sequence[Ref]
    ) -> tuple[RoundReport, SnapshotRefs]:
        """Take the server's step; a server that died is put back, and given the partials again.

        Args:
            plan: of the round.
            start: what the round started from.
            partials: all that its chunks have brought.
            received: what ``receive`` has returned for the first of them; the rest goes with the
                call.

        Raises:
            RayError: for anything but the server's death.
        """
        attempt = 0
        while True:
            attempt += 1
            method = self.actor.end_round.options(num_returns=3)
            report, *following = method.remote(plan, *partials[len(received) :])
            try:
                # What the call returns is in the object store once one part of it is here.
                done = self.get([*received, report])
                return done[-1], SnapshotRefs(*following)
            except RayError as error:
                if not is_actor_loss(error):
                    raise
                decision = decide(Loss.SERVER_ACTOR, attempt=attempt, max_retries=self._max_retries)
                if decision is Decision.ABORT:
                    raise explain(error, doing=f"ending round {plan.round}") from None
            received = self.put_back(start, partials)

    def go_back(self, snapshot: Snapshot) -> SnapshotRefs:
        """Become the server of a snapshot; return what its round starts from."""
        label = snapshot.broadcast.round
        refs = SnapshotRefs(
            ray.put(pack_broadcast(snapshot.broadcast, share_aux=False)),
            ray.put(pack(snapshot.optimizer, label=label)),
        )

        def restored() -> SnapshotRefs:
            done = [self.build(), self._restore(refs)]
            self.get(done, timeout_s=self._start_timeout_s)
            # Auxiliary variables are the server's to collect, so its own snapshot is the one.
            return self._settled(self._snapshot(label))

        return self._until_back(restored, doing="going back to a checkpoint")

    def put_back(self, start: SnapshotRefs, partials: Sequence[Ref]) -> list[Ref]:
        """Restore the server to the start of a round, and have it receive these partials.

        It discards everything else that it has received.

        Raises:
            RayError: if the snapshot, or a partial, has been lost.
        """

        def again() -> list[Ref]:
            done = [self.build(), self._restore(start)]
            received = [self.receive(partial) for partial in partials]
            self.get([*done, *received], timeout_s=self._start_timeout_s)
            return received

        return self._until_back(again, doing="restoring the server")

    def _snapshot(self, round: int) -> SnapshotRefs:
        return SnapshotRefs(*self.actor.snapshot.options(num_returns=2).remote(round))

    def _restore(self, refs: SnapshotRefs) -> Ref:
        return self.actor.restore.remote(refs.broadcast, refs.optimizer)

    def _settled(self, refs: SnapshotRefs) -> SnapshotRefs:
        """Wait until the snapshot is in the object store, where it outlives the server."""
        both = [refs.broadcast, refs.optimizer]
        self.wait(both)
        ray.get(refs.optimizer)  # raises if the server died before it was there
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
