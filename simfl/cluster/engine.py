"""The Ray engine: the server and the clients as actors, driven by references and numbers.

Weights go from the server's actor into the object store once a round and from there to the client
actors; partial sums go back the same way. The driver passes on references, and never fetches a
tensor but the final weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from simfl.client import ClientRecipe
from simfl.cluster.actors import ActorSetup, ClientActor, ServerActor
from simfl.cluster.connect import Connection
from simfl.cluster.failures import explain
from simfl.cluster.pool import ClusterOptions, num_client_actors, require_resources
from simfl.data import FederatedDataset
from simfl.engine import ChunkScheduler, chunk_size_for, split_cohort
from simfl.messages import Chunk, EvaluationChunk, RoundPlan, RoundReport
from simfl.models.model import MetricSums
from simfl.server import ServerRecipe
from simfl.vector import Vector

__all__ = ["RayEngine"]

Ref: TypeAlias = Any
"""A Ray ObjectRef."""
W = TypeVar("W", Chunk, EvaluationChunk)


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
        self._clients = [
            self._start_client(setup(f"client-{rank}", client), namespace=run_name)
            for rank in range(self.num_actors)
        ]
        started = [actor.start.remote() for actor in (self._server, *self._clients)]
        self._fetch(started, doing="starting the actors", timeout_s=options.start_timeout_s)

    def broadcast(self, round: int) -> Ref:
        """Have the server put its weights into the object store."""
        return self._server.broadcast.remote(round)

    def train(self, plan: RoundPlan, handle: Ref) -> RoundReport:
        """Train the cohort's chunks on whichever actors are free, then take the server's step."""
        dedicated = self._options.placement == "dedicated"
        size = 1 if dedicated else self._options.chunk_size
        chunks = split_cohort(plan, size or chunk_size_for(len(plan.clients), self.num_actors))
        scheduler = ChunkScheduler(
            chunks, num_workers=self.num_actors, owner=_own_actor if dedicated else None
        )
        done = []
        for chunk, _, (partial, *states) in self._run(scheduler, handle, self._start_training):
            done.append(self._server.receive.remote(partial))
            self._states |= dict(zip(chunk.clients, states, strict=False))
        done.append(self._server.end_round.remote(plan))
        report: RoundReport = self._fetch(done, doing=f"ending round {plan.round}")[-1]
        return report

    def evaluate(self, chunk: EvaluationChunk, handle: Ref) -> list[MetricSums]:
        """Evaluate the items on all actors, a share each."""
        size = -(-len(chunk.items) // self.num_actors)
        shares = [
            EvaluationChunk(chunk.split, chunk.items[start : start + size])
            for start in range(0, len(chunk.items), size)
        ]
        scheduler = ChunkScheduler(shares, num_workers=self.num_actors)
        run = self._run(scheduler, handle, self._start_evaluation)
        results = {share: sums for share, sums, _ in run}
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
            for actor in (self._server, *self._clients):
                ray.kill(actor)
        self._connection.close()

    def _run(
        self,
        scheduler: ChunkScheduler[W],
        handle: Ref,
        start: Callable[[int, W, Ref], list[Ref]],
    ) -> Iterator[tuple[W, Any, list[Ref]]]:
        """Run all chunks; yield each as it ends: chunk, first result, references to the rest."""
        running: dict[Ref, tuple[int, W, list[Ref]]] = {}
        while not scheduler.is_done:
            for worker, chunk in scheduler.assignments():
                refs = start(worker, chunk, handle)
                running[refs[0]] = (worker, chunk, refs)
            (ready,), _ = ray.wait(list(running), num_returns=1)
            worker, chunk, refs = running.pop(ready)
            first = self._fetch(ready, doing=_describe(chunk, worker))
            scheduler.finish(worker)
            yield chunk, first, refs[1:]

    def _start_training(self, worker: int, chunk: Chunk, handle: Ref) -> list[Ref]:
        states = [self._states.get(c) for c in chunk.clients] if self._keeps_state else []
        method = self._clients[worker].train_chunk.options(num_returns=2 + len(states))
        refs: list[Ref] = method.remote(chunk, handle, *states)
        return refs

    def _start_evaluation(self, worker: int, chunk: EvaluationChunk, handle: Ref) -> list[Ref]:
        return [self._clients[worker].evaluate_chunk.remote(chunk, handle)]

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
        .options(name=setup.label, namespace=namespace, num_cpus=0, scheduling_strategy=here)
        .remote(setup)
    )


def _own_actor(chunk: Chunk) -> int:
    return chunk.clients[0]


def _describe(chunk: Chunk | EvaluationChunk, worker: int) -> str:
    if isinstance(chunk, EvaluationChunk):
        return f"evaluating on client-{worker}"
    clients = ", ".join(map(str, chunk.clients))
    return f"round {chunk.round}, clients {clients} on client-{worker}"
