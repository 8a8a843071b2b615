"""Saving clients' states and checkpoints, while rounds continue; the server's actor writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import ray
from ray.exceptions import RayError

from simfl.cluster.failures import explain, is_actor_loss, is_object_loss
from simfl.cluster.remote_server import RemoteServer
from simfl.cluster.wire import Ref, SnapshotRefs, address
from simfl.errors import StatesLostError
from simfl.messages import SaveOrder
from simfl.states import Place, PlannedShard, StateTable


@dataclass(frozen=True)
class _Pending:
    """What is being written."""

    planned: Sequence[PlannedShard[Place]]
    shards: Sequence[Ref]
    last: Ref
    """The last call: it writes the checkpoint, or deletes what is no longer needed."""


class Saves:
    """At most one save at a time: the next one waits for it.

    A save that dies with the server's actor does not count: its checkpoint has no manifest, and the
    next save writes what it would have written.

    Args:
        location: the storage.
        states: where clients' states are; it drops from memory those that have been written.
        server: its actor writes the files.
    """

    def __init__(self, location: str, states: StateTable[Place], server: RemoteServer) -> None:
        self._server = server
        self._location = location
        self._states = states
        self._pending: _Pending | None = None
        self._moving: tuple[Mapping[int, Place], Sequence[Ref]] | None = None

    def begin(self, order: SaveOrder, handle: SnapshotRefs) -> None:
        """Begin to write the states that have changed, and then the checkpoint."""
        self.finish()
        planned = self._states.plan_shards(f"round-{order.round:06d}")
        shards = self._write(planned)
        checkpoint = self._server.actor.write_checkpoint.remote(
            self._location,
            order,
            self._states.shards_with(planned),
            handle.broadcast,
            handle.state,
            self._states.shards,
            *shards,
        )
        self._pending = _Pending(planned, shards, checkpoint)

    def spill(self, *, label: str) -> None:
        """Begin to move all states out of memory."""
        self.finish()
        planned = self._states.plan_shards(label)
        shards = self._write(planned)
        # Chunks of the next round still read the shards that these replace.
        in_use = {shard.name for shard in self._states.shards} | {plan.name for plan in planned}
        deletion = self._server.actor.delete_unused_shards.remote(self._location, frozenset(in_use))
        self._pending = _Pending(planned, shards, deletion)

    def finish(self) -> None:
        """Wait for what is being written.

        Raises:
            CheckpointError: if it cannot be written.
            StatesLostError: if states were lost with a node before they were.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            for plan, shard in zip(pending.planned, pending.shards, strict=True):
                self._states.written(plan, self._server.get(shard))
            self._server.get(pending.last)
        except RayError as error:
            if is_object_loss(error):
                raise StatesLostError("states were lost with a node, unsaved") from None
            if not is_actor_loss(error):
                raise explain(error, doing="writing a checkpoint") from None

    def tidy(self, limit: int) -> None:
        """Begin to move current states out of objects that mostly hold outdated ones.

        Cohorts are drawn at random, so that the clients of one chunk take part again in different
        rounds; and an object is released only when none of its states is current.

        Args:
            limit: the bytes that may be held.
        """
        if self._moving is not None:
            planned, (done, joined) = self._moving
            if not ray.wait([done], timeout=0)[0]:
                return
            self._moving = None
            with suppress(RayError):  # of the server's death, or a loss that a chunk will report
                ray.get(done)
                self._states.moved(planned, joined)
        if planned := self._states.plan_move(limit):
            addresses, objects = address(planned.values())
            call = self._server.actor.join_states.options(num_returns=2).remote
            self._moving = planned, call(addresses, *objects)

    def forget(self) -> None:
        """Give up what is being moved, and what is being written, once that has ended."""
        pending, self._pending, self._moving = self._pending, None, None
        if pending is not None:
            with suppress(RayError):
                self._server.get(pending.last)

    def _write(self, planned: Sequence[PlannedShard[Place]]) -> list[Ref]:
        written = []
        for plan in planned:
            addresses, objects = address(plan.holders.values())
            write = self._server.actor.write_shard
            clients = tuple(plan.holders)
            written.append(write.remote(self._location, plan.name, clients, addresses, *objects))
        return written
