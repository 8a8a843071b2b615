"""The server's actor. It only passes messages to ``Server``, and back."""

from __future__ import annotations

import os
import pickle
import time
from collections import Counter
from collections.abc import Sequence

import ray

from simfl.checkpoint import delete_unused_shards
from simfl.cluster.actor_setup import Actor, ActorSetup
from simfl.cluster.diagnostics import log, log_round
from simfl.cluster.failures import UnbuiltActorError
from simfl.cluster.links import Host, Meeting
from simfl.cluster.wire import (
    Addresses,
    Packed,
    Parcel,
    join_states,
    open_parcel,
    open_states,
    pack,
    pack_broadcast,
    pack_states,
)
from simfl.engine import (
    commit_checkpoint,
    give_back_freed_memory,
)
from simfl.messages import (
    Broadcast,
    RoundPlan,
    RoundReport,
    SaveOrder,
    Snapshot,
)
from simfl.server import Server, ServerRecipe
from simfl.states import (
    Kept,
    ShardInfo,
    StateFile,
    load_state,
    open_storage,
    write_shard,
)


class ServerActor(Actor[Server]):
    """The server, in its own process. After a restart, ``restore`` comes before other calls."""

    def __init__(self, label: str) -> None:
        super().__init__(label)
        self._shares_partials = False
        self._shares_aux = False
        self._beats: Counter[str] = Counter()
        self._host: Host | None = None

    def start(self, setup: ActorSetup, initial: Parcel | None = None) -> int:
        """Build the server; return the process id.

        The constructor does not build it, since only the errors of methods arrive as they were
        raised.

        Args:
            setup: what it is built from.
            initial: as for clients.
        """
        recipe: ServerRecipe = self._open_recipe(setup, initial)
        self._hosted = recipe.build()
        give_back_freed_memory()  # the rest of the model
        self._shares_partials = recipe.optimizer.accepts_read_only
        self._shares_aux = recipe.client_optimizer.accepts_read_only
        log.info("started")
        return os.getpid()

    def snapshot(self, round: int) -> tuple[Parcel, Parcel]:
        """Return what a round starts from: the broadcast, and the server's state.

        Ray puts them into the object store once, for all readers.
        """
        snapshot = self._built.snapshot(round)
        return self._pack(snapshot.broadcast), pack(snapshot.state, label=round)

    def _pack(self, broadcast: Broadcast) -> Parcel:
        return pack_broadcast(broadcast, share_aux=self._shares_aux)

    def restore(self, broadcast: Parcel, state: Parcel) -> None:
        """Restore the server from its snapshot."""
        self._built.restore(Snapshot(open_parcel(broadcast), open_parcel(state)))
        log.info("round=%d restored", state.label)

    def receive(self, *partials: Parcel) -> None:
        """Add partials of chunks to the round.

        They are opened only once the server is built, since they may hold classes of plug-ins.
        """
        server = self._built
        for partial in partials:
            server.receive(open_parcel(partial, copy=not self._shares_partials))

    def end_round(self, plan: RoundPlan, *partials: Parcel) -> tuple[RoundReport, Parcel, Parcel]:
        """Take the server's step; return the report, and what the next round starts from.

        Args:
            plan: of the round.
            partials: those that were not sent to ``receive``.
        """
        self.receive(*partials)
        report = self._built.end_round(plan)
        log_round(report)
        return (report, *self.snapshot(plan.round + 1))

    def add_up(self, plan: RoundPlan, *partials: Parcel) -> Parcel:
        """Return the sum of a cohort's partials; the arguments are those of ``end_round``."""
        self.receive(*partials)
        return pack(self._built.add_up(plan), label=plan.round)

    @ray.method(concurrency_group="life")
    def address(self) -> tuple[str, int]:
        """Return where client actors reach this process."""
        self._host = self._host or Host()
        return self._host.address

    def run_series(
        self, meeting: Meeting, plans: Sequence[RoundPlan], num_clients: int
    ) -> tuple[list[tuple[RoundReport, float, float]], Parcel, Parcel]:
        """Run rounds with client actors that come to a meeting.

        Args:
            meeting: where.
            plans: of the rounds, which begin with what the last call has left.
            num_clients: the number of client actors.

        Returns:
            Each round's report, the seconds until all partials were there, and those of the step;
            and what the round after the last one starts from.

        Raises:
            LostSumError: if a client actor leaves, or the series was called off.
        """
        server, ended = self._built, []
        if self._host is None:
            raise UnbuiltActorError(f"{self._label} was restarted")
        with self._host.meet(meeting, num_clients) as links:
            for plan in plans:
                began = time.perf_counter()
                for message in links.receive():
                    self.receive(*pickle.loads(message))
                trained = time.perf_counter()
                report = server.end_round(plan)
                if plan is not plans[-1]:
                    broadcast = server.snapshot(plan.round + 1).broadcast
                    links.send(pickle.dumps(self._pack(broadcast), protocol=5))
                ended.append((report, trained - began, time.perf_counter() - trained))
                log_round(report)
        return (ended, *self.snapshot(plans[-1].round + 1))

    @ray.method(concurrency_group="life")
    def call_off(self, key: bytes) -> None:
        """Leave the series with this key."""
        if self._host is not None:
            self._host.call_off(key)

    @ray.method(concurrency_group="life")
    def beat(self, label: str) -> None:
        """Count a client actor's heartbeat."""
        self._beats[label] += 1

    @ray.method(concurrency_group="life")
    def heartbeats(self) -> dict[str, int]:
        """Return the number of heartbeats of each client actor since this process began."""
        return dict(self._beats)

    @ray.method(concurrency_group="io")
    def write_shard(
        self,
        location: str,
        name: str,
        clients: tuple[int, ...],
        addresses: Addresses,
        *objects: Packed,
    ) -> ShardInfo:
        """Write clients' states as a shard, while rounds continue."""
        states = open_states(addresses, objects, share=True).open_each()
        known = {c: state for c, state in zip(clients, states, strict=True) if state is not None}
        return write_shard(open_storage(location), name, known)

    @ray.method(concurrency_group="read")
    def read_states(self, files: Sequence[StateFile]) -> Packed:
        """Read clients' states for an actor on a node that may not have access to the files."""
        (packed,) = pack_states(
            {file.client: Kept(load_state(file)) for file in files}, num_objects=1, share=False
        )
        assert packed is not None
        return packed

    @ray.method(concurrency_group="read")
    def join_states(self, addresses: Addresses, *objects: Packed) -> tuple[bool, Packed]:
        """Put states of several objects into one, so that the others can be released.

        The first value tells the driver that it is done, without the other.
        """
        return True, join_states(addresses, objects)

    @ray.method(concurrency_group="io")
    def delete_unused_shards(self, location: str, in_use: frozenset[str]) -> None:
        """Delete the shards that neither a checkpoint nor the run refers to."""
        delete_unused_shards(open_storage(location), in_use=in_use)

    @ray.method(concurrency_group="io")
    def write_checkpoint(
        self,
        location: str,
        order: SaveOrder,
        files: dict[int, str],
        broadcast: Parcel,
        state: Parcel,
        shards: Sequence[ShardInfo],
        *new_shards: ShardInfo,
    ) -> None:
        """Write a checkpoint whose new shards have been written, while rounds continue."""
        commit_checkpoint(
            location,
            order,
            Snapshot(open_parcel(broadcast), open_parcel(state)),
            files=files,
            shards=[*shards, *new_shards],
        )
        log.info("round=%d saved", order.round)
