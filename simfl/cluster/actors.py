"""The actors: a server and client hosts, each in its own process.

They only pass messages to ``Server`` and ``ClientHost``, and back.
"""

from __future__ import annotations

import os
import pickle
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from threading import Thread
from typing import Any, Generic, TypeVar

import ray
import torch

from simfl.checkpoint import delete_unused_shards
from simfl.client import ClientHost, ClientRecipe
from simfl.cluster.actor_setup import ActorSetup
from simfl.cluster.diagnostics import log, log_client_errors, log_round, log_trained
from simfl.cluster.failures import UnbuiltActorError
from simfl.cluster.links import Host, Meeting, attend
from simfl.cluster.wire import (
    Addresses,
    Packed,
    Parcel,
    join_states,
    open_parcel,
    open_states,
    pack,
    pack_broadcast,
    pack_partial,
    pack_states,
)
from simfl.data import FederatedDataset
from simfl.engine import (
    DeviceUse,
    Sampling,
    commit_checkpoint,
    device_for,
    give_back_freed_memory,
    measure_use,
    peak_memory,
    prepare_device,
)
from simfl.errors import SimflError
from simfl.messages import (
    Broadcast,
    Chunk,
    ChunkReport,
    EvaluationChunk,
    RoundPlan,
    RoundReport,
    SaveOrder,
    Snapshot,
)
from simfl.models.model import MetricSums
from simfl.server import Server, ServerRecipe
from simfl.states import (
    Kept,
    KeptState,
    Retained,
    ShardInfo,
    StateFile,
    load_state,
    open_storage,
    write_shard,
)

T = TypeVar("T")

BEAT_S = 5.0
"""The interval between two heartbeats of a client actor, in seconds."""


class _Actor(Generic[T]):
    """What all actors share.

    Args:
        label: ``server`` or ``client-3``.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._sampling: Sampling | None = None
        self._hosted: T | None = None

    def __repr__(self) -> str:
        return self._label

    def process_id(self) -> int:
        """Return the process id, also before ``start``."""
        return os.getpid()

    def peak_memory(self) -> int | None:
        """Return the process's peak resident memory in bytes."""
        return peak_memory()

    def end_profile(self) -> str | None:
        """Return the page with the flame graph; None without profiling."""
        return self._sampling.render() if self._sampling else None

    @property
    def _built(self) -> T:
        if self._hosted is None:
            raise UnbuiltActorError(f"{self._label} was restarted, and is not built yet")
        return self._hosted

    def _open_recipe(self, setup: ActorSetup, initial: Parcel | None) -> Any:
        if setup.profile and self._sampling is None:
            self._sampling = Sampling()
        recipe: Any = setup.open_recipe(self._label)
        return recipe if initial is None else recipe.with_initial(open_parcel(initial))


class ServerActor(_Actor[Server]):
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
                    for partial in pickle.loads(message):
                        server.receive(open_parcel(partial))
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


class ClientActor(_Actor[ClientHost]):
    """A client host, in its own process. ``start`` comes before other calls."""

    def __init__(self, label: str, uses_gpu: bool) -> None:
        super().__init__(label)
        self._uses_gpu = uses_gpu
        self._shares_sums = False
        self._shares_states = False
        self._broadcast: tuple[int, Broadcast] | None = None
        self._beats = False
        self._node = ""

    def start(
        self,
        setup: ActorSetup,
        dataset: FederatedDataset,
        server: Any = None,
        initial: Parcel | None = None,
    ) -> int:
        """Build the host; return the process id.

        Args:
            setup: what it is built from.
            dataset: with the clients' examples.
            server: the server's actor, to which this one sends heartbeats from now on.
            initial: the model's InitialState, whose base is read in place; None: it is built here.
        """
        if server is not None and not self._beats:
            self._beats = True
            Thread(target=_beat, args=(server, self._label), daemon=True).start()
        if ray.is_initialized():
            self._node = ray.get_runtime_context().get_node_id()
        recipe: ClientRecipe = self._open_recipe(setup, initial)
        device = device_for(self._label, uses_gpu=self._uses_gpu)
        prepare_device(device, deterministic=setup.deterministic)
        self._hosted = ClientHost(recipe, dataset, device=device)
        if initial is not None:  # a model of its own may have been built first
            give_back_freed_memory()
        self._shares_sums = recipe.aggregator.accepts_read_only
        self._shares_states = recipe.accepts_read_only
        log.info("started on %s", device)
        return os.getpid()

    def train_chunk(
        self,
        chunk: Chunk,
        broadcast: Parcel,
        num_objects: int = 0,
        addresses: Addresses | None = None,
        *objects: Packed,
    ) -> Any:
        """Train a chunk; return the parts of a ChunkResult, see ``ChunkResult.join``.

        Args:
            chunk: K clients.
            broadcast: what they start from.
            num_objects: into how many objects the new states are put; 0: they are not requested.
            addresses: [K] where each client's state is; None if no client has kept one.
            objects: which hold them.
        """
        known: Sequence[KeptState | None] = [None] * len(chunk.clients)
        if addresses is not None:
            known = open_states(addresses, objects, share=self._shares_states)
        with log_client_errors():
            report, partial, states = self._train(chunk, broadcast, known)
        packed = []
        if num_objects:
            packed = pack_states(states, num_objects=num_objects, share=self._shares_states)
        return (report, partial, *packed)

    def train_series(
        self, meeting: Meeting, chunks: Sequence[Sequence[Chunk]], broadcast: Parcel
    ) -> list[list[ChunkReport]]:
        """Train chunks in each of several rounds; return their reports, by round.

        Args:
            meeting: where the server's actor is, which is sent the partials.
            chunks: by round.
            broadcast: what the first round starts from; that of the others comes from the server.

        Raises:
            LostSumError: if the server leaves.
        """
        reports = []
        with attend(meeting) as link:
            for number, own in enumerate(chunks):
                if number:
                    broadcast = pickle.loads(link.recv_bytes())
                trained = [self._train(c, broadcast, [None] * len(c.clients)) for c in own]
                partials = [partial for _, partial, _ in trained]
                link.send_bytes(pickle.dumps(partials, protocol=5))
                reports.append([report for report, _, _ in trained])
        return reports

    def _train(
        self, chunk: Chunk, broadcast: Parcel, known: Sequence[KeptState | None]
    ) -> tuple[ChunkReport, Parcel, Mapping[int, Retained[KeptState]]]:
        """Train a chunk; return its report, its partial, and what its clients keep."""
        result = self._built.train_chunk(chunk, self._open(broadcast), known)
        log_trained(result.report)
        partial = pack_partial(result.partial, sums=self._shares_sums, aux=self._shares_states)
        return replace(result.report, node=self._node), partial, result.states

    def probe(self, chunk: Chunk, broadcast: Parcel) -> DeviceUse | None:
        """Train a chunk of new clients, only to measure how much of the GPU's memory it uses."""
        # An error is reported when it happens in a round.
        with suppress(SimflError, torch.cuda.OutOfMemoryError):
            self._built.train_chunk(chunk, self._open(broadcast), [None] * len(chunk.clients))
        return measure_use(self._built.device)

    def evaluate_chunk(
        self,
        chunk: EvaluationChunk,
        broadcast: Parcel,
        addresses: Addresses | None = None,
        *objects: Packed,
    ) -> list[MetricSums]:
        """Evaluate the items of a chunk.

        Args:
            chunk: what to evaluate.
            broadcast: the server's weights.
            addresses: where each client's state is; None if no client has kept one, or the
                broadcast weights are evaluated.
            objects: which hold them.
        """
        states: Iterable[KeptState | None] = ()
        if addresses is not None:
            states = open_states(addresses, objects, share=self._shares_states).open_each()
        with log_client_errors():
            return self._built.evaluate_chunk(chunk, self._open(broadcast), states)

    def _open(self, parcel: Parcel) -> Broadcast:
        if self._broadcast is None or self._broadcast[0] != parcel.label:
            self._broadcast = parcel.label, open_parcel(parcel)
        return self._broadcast[1]


def _beat(server: Any, label: str) -> None:
    """Send heartbeats from a separate thread, which also runs while the process is busy.

    A second concurrency group would work as well, but with one, Ray no longer runs calls in the
    main thread, where allocating large tensors is cheaper.
    """
    while True:
        with suppress(Exception):  # a dead server is restarted, or the run is over
            server.beat.remote(label)
        time.sleep(BEAT_S)
