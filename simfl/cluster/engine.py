"""The Ray engine: the server and the clients as actors, driven by references and numbers.

Weights go from the server's actor into the object store once a round and from there to the client
actors; partial sums go back the same way. The driver passes on references, and never fetches a
tensor but the final weights.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from simfl.checkpoint import Found
from simfl.cluster.connect import Connection
from simfl.cluster.failures import explain, is_object_loss
from simfl.cluster.launch import launch_client, launch_server
from simfl.cluster.pool import num_client_actors, require_resources
from simfl.cluster.profiles import write_profiles
from simfl.cluster.recovery import Attempts, Decision, Loss
from simfl.cluster.references import Ref, SnapshotRefs
from simfl.cluster.remote_server import RemoteServer
from simfl.cluster.saves import Saves
from simfl.cluster.setup import EngineSetup
from simfl.cluster.starting import start_all
from simfl.cluster.wire import open_parcel
from simfl.cluster.workers import ClientPool, Ended
from simfl.engine import (
    ChunkScheduler,
    Pace,
    StateTable,
    Trained,
    guided_chunks,
    peak_memory,
    snapshot_of,
    split_cohort,
)
from simfl.errors import StatesLostError
from simfl.messages import (
    Broadcast,
    Chunk,
    ChunkTrace,
    EvaluationChunk,
    RoundPlan,
    RoundTrace,
    SaveOrder,
)
from simfl.models.model import MetricSums
from simfl.vector import Vector

__all__ = ["RayEngine"]

_MEMORY_TIMEOUT_S = 5.0


class RayEngine:
    """Runs the server and a pool of client actors on a Ray cluster.

    Args:
        connection: the Ray session; closed with the engine.
        setup: what is run.

    Raises:
        ClusterError: if the cluster cannot hold the actors, or they do not start.
    """

    def __init__(self, connection: Connection, setup: EngineSetup) -> None:
        options = setup.options
        self._connection = connection
        self._options = options
        self._keeps_state = setup.client.keep_state and setup.client.optimizer.keeps_state
        self._owner = _own_actor if options.placement == "dedicated" else None
        self._pace = Pace()
        self._states = StateTable[Ref](options.location)
        self._saves = Saves(options.location, self._states)
        self.num_actors = _count_actors(setup)
        self.dashboard = connection.dashboard
        labels = [f"client-{rank}" for rank in range(self.num_actors)]
        self._labels = ["server", *labels]
        server = launch_server(setup)
        clients = [launch_client(setup, label) for label in labels]
        retries: dict[str, Any] = {"max_retries": options.max_retries}
        retries["start_timeout_s"] = options.start_timeout_s
        self._server = RemoteServer(server, **retries)
        dataset = setup.shared.ref if setup.shared else ray.put(setup.dataset)
        self._pool = ClientPool(clients, dataset, stall_limit_s=options.stall_limit_s, **retries)
        start_all(
            {"server": server, **dict(zip(labels, clients, strict=True))},
            lambda actor: actor.start.remote() if actor is server else actor.start.remote(dataset),
            max_retries=options.max_retries,
            timeout_s=options.start_timeout_s,
        )

    def start(self) -> SnapshotRefs:
        """Have the server put what the first round starts from into the object store."""
        return self._server.first()

    def train(self, plan: RoundPlan, handle: SnapshotRefs) -> Trained:
        """Train the cohort's chunks on whichever actors are free, then take the server's step.

        Clients' states count as soon as the whole round does: until then it can be done again.
        """
        attempts = Attempts(max_retries=self._options.max_retries)
        while True:
            try:
                return self._train_once(plan, handle)
            except RayError as error:
                _redo_or_raise(error, attempts, round=plan.round)

    def evaluate(self, chunk: EvaluationChunk, handle: SnapshotRefs) -> list[MetricSums]:
        """Evaluate the items on all actors, a share each."""
        size = -(-len(chunk.items) // self.num_actors)
        shares = [
            EvaluationChunk(chunk.split, chunk.items[start : start + size])
            for start in range(0, len(chunk.items), size)
        ]
        scheduler = ChunkScheduler(shares, num_workers=self.num_actors)

        def start(actor: Any, share: EvaluationChunk) -> list[Ref]:
            return [actor.evaluate_chunk.remote(share, handle.broadcast)]

        try:
            results = {end.chunk: end.result for end in self._pool.run(scheduler, start)}
        except RayError as error:
            raise explain(error, doing="evaluating") from None
        return [item for share in shares for item in results[share]]

    def get_weights(self, handle: SnapshotRefs) -> Vector:
        """Fetch all weights of a snapshot, into memory that outlives the object store."""
        parcel = self._fetch(handle.broadcast, doing="fetching the final weights")
        broadcast: Broadcast = open_parcel(parcel)
        return broadcast.weights.clone()

    def save(self, order: SaveOrder, handle: SnapshotRefs) -> None:
        """Have the server's actor write a checkpoint, while the next round is trained."""
        self._saves.begin(self._server.actor, order, handle)

    def flush(self) -> None:
        """Wait for the checkpoint that is being written."""
        self._saves.finish()

    def restore(self, found: Found) -> SnapshotRefs:
        """Go back to a checkpoint, or to the start."""
        self._saves.forget()
        if found.checkpoint is None:
            self._states.restore({}, ())
            return self._server.start()
        self._states.restore(found.checkpoint.states, found.shards)
        return self._server.go_back(snapshot_of(found.checkpoint))

    def peak_memory(self) -> dict[str, int | None]:
        """Ask all actors; one that has died since has forgotten."""
        asked = [actor.peak_memory.remote() for actor in self._actors]
        try:
            server, *clients = ray.get(asked, timeout=_MEMORY_TIMEOUT_S)
        except RayError:
            return {"driver": peak_memory(), "server": None, "client": None}
        known = [peak for peak in clients if peak is not None]
        return {"driver": peak_memory(), "server": server, "client": max(known, default=None)}

    def write_profiles(self, folder: Path) -> None:
        """Write each actor's flame graph, and Ray's timeline of all calls."""
        write_profiles(folder, dict(zip(self._labels, self._actors, strict=True)))

    def describe(self) -> str:
        """Say how many actors train clients."""
        return f"{self.num_actors} client actor{'s' if self.num_actors > 1 else ''} on Ray"

    def close(self) -> None:
        """End the actors, and leave the cluster."""
        if ray.is_initialized():
            for actor in self._actors:
                ray.kill(actor)
        self._connection.close()

    @property
    def _actors(self) -> list[Any]:
        return [self._server.actor, *self._pool.actors]

    def _train_once(self, plan: RoundPlan, handle: SnapshotRefs) -> Trained:
        began = time.perf_counter()
        scheduler = ChunkScheduler(self._cut(plan), num_workers=self.num_actors, owner=self._owner)
        partials: list[Ref] = []
        received: list[Ref] = []
        states: dict[int, Ref] = {}
        traces: list[ChunkTrace] = []
        for end in self._train_chunks(scheduler, handle):
            partial, *kept = end.refs
            partials.append(partial)
            states |= zip(end.chunk.clients, kept, strict=False)
            traces.append(ChunkTrace(end.result, f"client-{end.worker}", end.retries))
            if not scheduler.is_done:  # the last one comes with end_round: one call less
                received.append(self._server.receive(partial))
        trained = time.perf_counter()
        report, following = self._server.end_round(plan, handle, partials, received)
        self._pace.learn(plan, [trace.report for trace in traces])
        self._states.commit(states, num_bytes=sum(t.report.state_bytes for t in traces))
        if self._states.held_bytes > self._options.state_memory:
            self._saves.spill(self._server.actor, label=f"spill-{plan.round:06d}")
        traces.sort(key=lambda trace: trace.report.start)
        trace = RoundTrace(tuple(traces), trained - began, time.perf_counter() - trained)
        return Trained(report, trace, following)

    def _cut(self, plan: RoundPlan) -> list[Chunk]:
        if self._owner is not None:
            return split_cohort(plan, 1)
        if self._options.chunk_size is not None:
            return split_cohort(plan, self._options.chunk_size)
        return guided_chunks(plan, self.num_actors, least_work=self._pace.least_work)

    def _train_chunks(
        self, scheduler: ChunkScheduler[Chunk], handle: SnapshotRefs
    ) -> Iterator[Ended[Chunk]]:
        """Train all chunks; yield each as it ends: its report, its partial, its clients' states."""

        def start(actor: Any, chunk: Chunk) -> list[Ref]:
            states = [self._states.get(c) for c in chunk.clients] if self._keeps_state else []
            method = actor.train_chunk.options(num_returns=2 + len(states))
            refs: list[Ref] = method.remote(chunk, handle.broadcast, *states)
            return refs

        for end in self._pool.run(scheduler, start):
            self._pool.learn(end.result.seconds)
            yield end

    def _fetch(self, refs: Any, *, doing: str) -> Any:
        try:
            return ray.get(refs)
        except RayError as error:
            raise explain(error, doing=doing) from None


def _count_actors(setup: EngineSetup) -> int:
    resources = ray.cluster_resources()
    count = num_client_actors(
        setup.options,
        resources=resources,
        population=setup.dataset.num_clients,
        cohort_size=setup.cohort_size,
    )
    require_resources(setup.options, count, resources=resources)
    return count


def _redo_or_raise(error: RayError, attempts: Attempts, *, round: int) -> None:
    """Return if the round is to be done again; raise what ends it otherwise."""
    if not is_object_loss(error):
        raise explain(error, doing=f"round {round}") from None
    decision = attempts.lost(Loss.OBJECT)
    if decision is Decision.ROLL_BACK:
        raise StatesLostError(f"round {round}: an object was lost with its node") from None
    if decision is Decision.ABORT:
        raise explain(error, doing=f"round {round}") from None


def _own_actor(chunk: Chunk) -> int:
    return chunk.clients[0]
