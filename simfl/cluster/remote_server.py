"""The server's actor, which is put back to where the round started when it dies."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from simfl.checkpoint import StateFile
from simfl.cluster.failures import explain, is_actor_loss
from simfl.cluster.recovery import Attempts, Decision, Loss
from simfl.cluster.references import Ref, SnapshotRefs
from simfl.cluster.wire import pack, pack_broadcast
from simfl.cluster.workers import NOTICE_S
from simfl.messages import RoundPlan, RoundReport, Snapshot

__all__ = ["RemoteServer"]

T = TypeVar("T")


class RemoteServer:
    """Calls the server's actor; what dies with it is done again.

    Args:
        actor: the server's.
        setup: what it is started with.
        max_retries: how often it may die in one round.
        start_timeout_s: how long it may take to come back.
    """

    def __init__(self, actor: Any, setup: Ref, *, max_retries: int, start_timeout_s: float) -> None:
        self.actor = actor
        self._setup = setup
        self._max_retries = max_retries
        self._start_timeout_s = start_timeout_s

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
            ray.get(built, timeout=self._start_timeout_s)
            return self._settled(refs)

        return self._until_back(fresh, doing="starting the server")

    def build(self) -> Ref:
        """Have the actor build the server."""
        return self.actor.start.remote(self._setup)

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
        attempts = Attempts(max_retries=self._max_retries)
        while True:
            method = self.actor.end_round.options(num_returns=3)
            report, *following = method.remote(plan, *partials[len(received) :])
            try:
                # What the call returns is in the object store once one part of it is here.
                done = ray.get([*received, report])
                return done[-1], SnapshotRefs(*following)
            except RayError as error:
                if not is_actor_loss(error):
                    raise
                if attempts.lost(Loss.SERVER_ACTOR) is not Decision.RESTORE:
                    raise explain(error, doing=f"ending round {plan.round}") from None
            received = self._put_back(start, partials)

    def go_back(self, snapshot: Snapshot) -> SnapshotRefs:
        """Become the server of a snapshot; return what its round starts from."""
        label = snapshot.broadcast.round
        refs = SnapshotRefs(
            ray.put(pack_broadcast(snapshot.broadcast, lend_aux=False)),
            ray.put(pack(snapshot.optimizer, label=label)),
        )

        def restored() -> SnapshotRefs:
            done = [self.build(), self._restore(refs)]
            ray.get(done, timeout=self._start_timeout_s)
            # Auxiliary variables are the server's to collect, so its own snapshot is the one.
            return self._settled(self._snapshot(label))

        return self._until_back(restored, doing="going back to a checkpoint")

    def _put_back(self, start: SnapshotRefs, partials: Sequence[Ref]) -> list[Ref]:
        def again() -> list[Ref]:
            done = [self.build(), self._restore(start)]
            received = [self.receive(partial) for partial in partials]
            ray.get([*done, *received], timeout=self._start_timeout_s)
            return received

        return self._until_back(again, doing="restoring the server")

    def _snapshot(self, round: int) -> SnapshotRefs:
        return SnapshotRefs(*self.actor.snapshot.options(num_returns=2).remote(round))

    def _restore(self, refs: SnapshotRefs) -> Ref:
        return self.actor.restore.remote(refs.broadcast, refs.optimizer)

    def _settled(self, refs: SnapshotRefs) -> SnapshotRefs:
        """Wait until the snapshot is in the object store, where it outlives the server."""
        both = [refs.broadcast, refs.optimizer]
        ray.wait(both, num_returns=2, fetch_local=False)
        ray.get(refs.optimizer)  # raises if the server died before it was there
        return refs

    def _until_back(self, call: Callable[[], T], *, doing: str) -> T:
        """Repeat a call until the actor answers: until Ray notices a death, calls fail at once."""
        deadline = time.monotonic() + self._start_timeout_s
        while True:
            try:
                return call()
            except RayError as error:
                if not is_actor_loss(error) or time.monotonic() > deadline:
                    raise explain(error, doing=doing) from None
            time.sleep(NOTICE_S)
