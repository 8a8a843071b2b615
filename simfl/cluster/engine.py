"""The Ray engine: the server and the clients as actors, driven by references and numbers.

Weights go from the server's actor into the object store once a round and from there to the client
actors; partial sums go back the same way. The driver passes on references, and never fetches a
tensor but the final weights.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from simfl.client import ClientRecipe
from simfl.cluster.actors import ActorSetup, ClientActor, ServerActor
from simfl.cluster.connect import Connection
from simfl.cluster.failures import explain, is_actor_loss
from simfl.cluster.pool import ClusterOptions, num_client_actors, require_resources
from simfl.cluster.recovery import Attempts, Decision, Loss
from simfl.cluster.workers import NOTICE_S, ClientPool, Ref
from simfl.data import FederatedDataset
from simfl.engine import ChunkScheduler, chunk_size_for, split_cohort
from simfl.messages import Chunk, EvaluationChunk, RoundPlan, RoundReport
from simfl.models.model import MetricSums
from simfl.server import ServerRecipe
from simfl.vector import Vector

__all__ = ["RayEngine"]


# Ray starts a dead actor again; what it was doing is ours to repeat.
_RESTARTED = {"max_restarts": -1, "max_task_retries": 0}


@dataclass(frozen=True)
class _SnapshotRefs:
    """Where a Snapshot lies in the object store."""

    broadcast: Ref
    optimizer: Ref


class RayEngine:
    """Runs the server and a pool of client actors on a Ray cluster.

    Args:
        connection: the Ray session; closed with the engine.
        options: of the cluster.
        server: what the server's actor is made from.
        client: what the client actors are made from.
        dataset: put into the object store once.
        cohort_size: clients a round.
        run_name: the namespace of the actors' names.
        plugins: modules that every actor imports.
        search: folders in which they are looked for.

    Raises:
        ClusterError: if the cluster cannot hold the actors, or they do not start.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        options: ClusterOptions,
        server: ServerRecipe,
        client: ClientRecipe,
        dataset: FederatedDataset,
        cohort_size: int,
        run_name: str,
        plugins: Sequence[str] = (),
        search: Sequence[str] = (),
    ) -> None:
        self._connection = connection
        self._options = options
        self._states: dict[int, Ref] = {}
        self._keeps_state = client.keep_state and client.optimizer.keeps_state
        self.num_actors = self._count_actors(dataset.num_clients, cohort_size)

        def setup(label: str, recipe: object) -> ActorSetup:
            pickled = ray.cloudpickle.dumps(recipe)
            return ActorSetup(label, tuple(plugins), tuple(search), pickled, options.threads)

        self._dataset = ray.put(dataset)
        self._server = _start_server(setup("server", server), namespace=run_name)
        actors = [
            self._start_client(setup(f"client-{rank}", client), namespace=run_name)
            for rank in range(self.num_actors)
        ]
        self._pool = ClientPool(
            actors,
            max_retries=options.max_retries,
            stall_limit_s=options.stall_limit_s,
            start_timeout_s=options.start_timeout_s,
        )
        started = [actor.start.remote() for actor in (self._server, *actors)]
        self._fetch(started, doing="starting the actors", timeout_s=options.start_timeout_s)

    def start(self) -> _SnapshotRefs:
        """Have the server put what the first round starts from into the object store."""
        return _SnapshotRefs(*self._server.snapshot.options(num_returns=2).remote(1))

    def train(self, plan: RoundPlan, handle: _SnapshotRefs) -> tuple[RoundReport, _SnapshotRefs]:
        """Train the cohort's chunks on whichever actors are free, then take the server's step.

        Clients' states count as soon as the whole round does: until then it can be done again.
        """
        partials: list[Ref] = []
        states: dict[int, Ref] = {}
        for partial, kept in self._train_chunks(plan, handle):
            partials.append(partial)
            states |= kept
            self._server.receive.remote(partial)
        report, following = self._end_round(plan, handle, partials)
        self._states |= states
        return report, following

    def evaluate(self, chunk: EvaluationChunk, handle: _SnapshotRefs) -> list[MetricSums]:
        """Evaluate the items on all actors, a share each."""
        size = -(-len(chunk.items) // self.num_actors)
        shares = [
            EvaluationChunk(chunk.split, chunk.items[start : start + size])
            for start in range(0, len(chunk.items), size)
        ]
        scheduler = ChunkScheduler(shares, num_workers=self.num_actors)

        def start(actor: Any, share: EvaluationChunk) -> list[Ref]:
            return [actor.evaluate_chunk.remote(share, handle.broadcast)]

        results = {share: sums for share, sums, _ in self._pool.run(scheduler, start)}
        return [item for share in shares for item in results[share]]

    def get_weights(self) -> Vector:
        """Fetch the server's weights."""
        weights: Vector = self._fetch(self._server.get_weights.remote(), doing="final weights")
        return weights

    def describe(self) -> str:
        """Say how many actors train clients."""
        return f"{self.num_actors} client actor{'s' if self.num_actors > 1 else ''} on Ray"

    def close(self) -> None:
        """End the actors, and leave the cluster."""
        if ray.is_initialized():
            for actor in (self._server, *self._pool.actors):
                ray.kill(actor)
        self._connection.close()

    def _train_chunks(
        self, plan: RoundPlan, handle: _SnapshotRefs
    ) -> Iterator[tuple[Ref, dict[int, Ref]]]:
        """Train all chunks; yield of each, as it ends, its partial and its clients' states."""
        dedicated = self._options.placement == "dedicated"
        size = 1 if dedicated else self._options.chunk_size
        chunks = split_cohort(plan, size or chunk_size_for(len(plan.clients), self.num_actors))
        scheduler = ChunkScheduler(
            chunks, num_workers=self.num_actors, owner=_own_actor if dedicated else None
        )

        def start(actor: Any, chunk: Chunk) -> list[Ref]:
            states = [self._states.get(c) for c in chunk.clients] if self._keeps_state else []
            method = actor.train_chunk.options(num_returns=2 + len(states))
            refs: list[Ref] = method.remote(chunk, handle.broadcast, *states)
            return refs

        for chunk, report, (partial, *states) in self._pool.run(scheduler, start):
            self._pool.learn(report.seconds)
            yield partial, dict(zip(chunk.clients, states, strict=False))

    def _end_round(
        self, plan: RoundPlan, handle: _SnapshotRefs, partials: Sequence[Ref]
    ) -> tuple[RoundReport, _SnapshotRefs]:
        """Take the server's step; a server that died is put back, and handed the partials again."""
        attempts = Attempts(max_retries=self._options.max_retries)
        while True:
            report, *following = self._server.end_round.options(num_returns=3).remote(plan)
            try:
                # The snapshot too: what is not in the object store by now may die with the server.
                ray.wait(following, num_returns=2, fetch_local=False)
                return ray.get(report), _SnapshotRefs(*following)
            except RayError as error:
                lost = is_actor_loss(error) and attempts.lost(Loss.SERVER_ACTOR)
                if lost is not Decision.RESTORE:
                    raise explain(error, doing=f"ending round {plan.round}") from None
            self._restore_server(handle, partials)

    def _restore_server(self, handle: _SnapshotRefs, partials: Sequence[Ref]) -> None:
        deadline = time.monotonic() + self._options.start_timeout_s
        while True:
            done = [
                self._server.start.remote(),
                self._server.restore.remote(handle.broadcast, handle.optimizer),
                *(self._server.receive.remote(partial) for partial in partials),
            ]
            try:
                ray.get(done, timeout=self._options.start_timeout_s)
                return
            except RayError as error:
                if not is_actor_loss(error) or time.monotonic() > deadline:
                    raise explain(error, doing="restoring the server") from None
            # Until Ray has noticed the death, calls fail at once.
            time.sleep(NOTICE_S)

    def _start_client(self, setup: ActorSetup, *, namespace: str) -> Any:
        options = self._options
        return (
            ray.remote(ClientActor)
            .options(
                name=setup.label,
                namespace=namespace,
                num_cpus=options.num_cpus,
                num_gpus=options.num_gpus,
                scheduling_strategy="SPREAD",
                **_RESTARTED,
            )
            .remote(setup, self._dataset, options.num_gpus > 0)
        )

    def _count_actors(self, population: int, cohort_size: int) -> int:
        resources = ray.cluster_resources()
        count = num_client_actors(
            self._options, resources=resources, population=population, cohort_size=cohort_size
        )
        require_resources(self._options, count, resources=resources)
        return count

    def _fetch(self, refs: Any, *, doing: str, timeout_s: float | None = None) -> Any:
        try:
            return ray.get(refs, timeout=timeout_s)
        except RayError as error:
            raise explain(error, doing=doing) from None


def _start_server(setup: ActorSetup, *, namespace: str) -> Any:
    # Beside the driver: the two fail together, and nothing of the run outlives them.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return (
        ray.remote(ServerActor)
        .options(
            name=setup.label,
            namespace=namespace,
            num_cpus=0,
            scheduling_strategy=here,
            **_RESTARTED,
        )
        .remote(setup)
    )


def _own_actor(chunk: Chunk) -> int:
    return chunk.clients[0]
