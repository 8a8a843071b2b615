"""The Ray engine: the server and the clients as actors, driven by references and numbers.

Weights go from the server's actor into the object store once a round and from there to the client
actors; partial sums go back the same way. The driver passes on references, and never fetches a
tensor but the final weights.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import ray
from ray.exceptions import RayError

from simfl.checkpoint import Found
from simfl.cluster.cohorts import Cohorts, Results, Returned
from simfl.cluster.diagnostics import ask_peak_memory, write_profiles
from simfl.cluster.failures import explain, is_object_loss, repeat
from simfl.cluster.launch import Fleet, launch_server, put_setup
from simfl.cluster.remote_server import Partials, RemoteServer, TrainAgain
from simfl.cluster.saves import Saves
from simfl.cluster.series import SeriesRunner
from simfl.cluster.session import Connection
from simfl.cluster.setup import EngineSetup
from simfl.cluster.starting import SERVER, Starter
from simfl.cluster.wire import Ref, SnapshotRefs, open_parcel, put_initial
from simfl.cluster.workers import ClientPool
from simfl.engine import (
    Cohort,
    Trained,
    Workload,
    cut_evaluation,
    snapshot_of,
)
from simfl.engine.events import Begin
from simfl.errors import StatesLostError
from simfl.messages import (
    Broadcast,
    Contribution,
    EvaluationChunk,
    RoundPlan,
    RoundTrace,
    SaveOrder,
    Snapshot,
)
from simfl.models.model import MetricSums
from simfl.states import Place, StateTable
from simfl.vector import Vector

T = TypeVar("T")

_MAX_STATES = 64
"""The most clients whose own models are evaluated in a call."""


class RayEngine:
    """Runs the server and a pool of client actors on a Ray cluster.

    Args:
        connection: the Ray session; closed with the engine.
        setup: what is run.

    Raises:
        ClusterError: if the cluster cannot hold the actors.
    """

    def __init__(self, connection: Connection, setup: EngineSetup) -> None:
        cluster, dataset = setup.cluster, setup.dataset
        initial = put_initial(setup.client.initial)
        # So that the examples and the base are freed once they are in the object store.
        self._setup = setup = replace(
            setup,
            dataset=dataset.without_examples(),
            client=setup.client.with_initial(None),
            server=setup.server.with_initial(None),
        )
        self._connection = connection
        self._is_dedicated = cluster.placement == "dedicated"
        self._states = StateTable[Place](setup.location)
        self.dashboard = connection.dashboard
        self._server = RemoteServer(
            launch_server(setup),
            (put_setup(setup, setup.server), initial),
            cluster=cluster,
            notify=setup.notify,
            require_cluster=connection.watch.require_all,
        )
        self._saves = Saves(setup.location, self._states, self._server)
        self._fleet = Fleet(setup)
        # Their processes start while the examples are put into the object store.
        self._launched = self._fleet.launch()
        self._pool = ClientPool(
            (
                setup.shared.ref if setup.shared else ray.put(dataset),
                self._server.actor,
                initial,
            ),
            cluster=cluster,
            workload=Workload(
                setup.client.work, setup.dataset, personal_steps=setup.client.personal_steps
            ).of,
            server=self._server,
            notify=setup.notify,
        )
        self._cohorts = Cohorts(
            setup,
            self._server,
            self._pool,
            self._states,
            is_local=connection.is_local,
        )
        self._series = SeriesRunner(
            self._server,
            self._pool,
            self._cohorts,
            is_possible=not (self._is_dedicated or setup.client.keeps_state),
            stall_limit_s=cluster.stall_limit_s,
        )

    def open(self) -> None:
        """Start the actors.

        Raises:
            ClusterError: if too few of them start.
        """
        # In a cluster started for this run, there are no other jobs to wait for.
        notify = self._setup.notify if not self._connection.is_local else lambda _: None
        Starter(self._setup, self._server, self._fleet, self._pool, notify).start(self._launched)
        self._connection.settled()

    def start(self) -> SnapshotRefs:
        """Have the server put its first snapshot into the object store."""
        return self._server.first()

    def put(self, snapshot: Snapshot) -> SnapshotRefs:
        """Put a snapshot into the object store."""
        return self._server.put(snapshot)

    @property
    def series_length(self) -> int:
        """The number of rounds of a series."""
        return self._series.length

    def run(
        self,
        plans: Sequence[RoundPlan],
        handle: SnapshotRefs,
        *,
        following: Sequence[RoundPlan] = (),
    ) -> list[Trained]:
        """Run brief rounds as a series, or else the first of them."""
        self._take_in_nodes()
        done = self._series.run(plans, handle, following)
        if not done:
            done = [self._series.take(self.end_round(self.train(plans[0], handle)))]
        return done

    def train(self, plan: RoundPlan, handle: SnapshotRefs) -> Cohort:
        """Train the cohort's chunks on whichever actors are free; the server adds them up."""
        doing = f"round {plan.round}"
        if self._series.leave():
            self._repeat(lambda: self._server.restore(handle), doing=doing)
        self._take_in_nodes()
        self._pool.await_members(self._fleet.least)
        return self._repeat(
            lambda: self._cohorts.train(plan, handle),
            # It has received part of a round whose chunks may be cut differently now.
            before_repeat=lambda: self._server.restore(handle),
            doing=doing,
        )

    def _take_in_nodes(self) -> None:
        """Launch actors on nodes that have joined."""
        if not self._is_dedicated:
            joining = self._fleet.grow(self._pool.workers)
            self._pool.join(joining, {w.label: self._pool.start(w) for w in joining})

    def end_round(self, cohort: Cohort) -> Trained:
        """Take the server's step."""
        began = time.perf_counter()
        cohort, (report, handle) = self._finish(cohort, self._server.end_round)
        seconds = cohort.train_s, time.perf_counter() - began
        return Trained(report, RoundTrace(cohort.chunks, *seconds, self.num_actors), handle)

    def add_up(self, cohort: Cohort) -> Contribution | None:
        """Fetch the sum from the server."""
        return self._finish(cohort, self._server.add_up)[1]

    def evaluate(self, chunk: EvaluationChunk, handle: SnapshotRefs) -> list[MetricSums]:
        """Evaluate the items, in equal parts on all actors with the group's kind of device."""
        kinds = [self._setup.groups[worker.group].device for worker in self._pool.workers]
        kind = self._setup.groups[chunk.group].device
        num_actors = max(1, kinds.count(kind))
        size = -(-len(chunk.items) // num_actors)
        if chunk.needs_states:  # which an actor fetches before it begins
            size = min(size, _MAX_STATES)
        shares = cut_evaluation(chunk, size)

        def start(actor: Any, share: EvaluationChunk) -> list[Ref]:
            sends = share.needs_states and not self._states.is_empty
            addresses, objects = self._cohorts.address(share.clients) if sends else (None, [])
            call = actor.evaluate_chunk.remote
            return [call(share, handle.broadcast, addresses, *objects)]

        def once() -> list[MetricSums]:
            begin = Begin(shares, lanes=kinds, lane_of=lambda _: kind)
            passed = itertools.chain.from_iterable(self._pool.run(begin, start))
            results = {assign.chunk: sums for assign, sums, _ in passed}
            return [item for share in shares for item in results[share]]

        return self._repeat(once, doing="evaluating")

    def _repeat(
        self, call: Callable[[], T], *, doing: str, before_repeat: Callable[[], Any] = lambda: None
    ) -> T:
        limit = self._setup.cluster.max_retries
        return repeat(call, doing=doing, before_repeat=before_repeat, max_retries=limit)

    def get_weights(self, handle: SnapshotRefs) -> Vector:
        """Fetch all weights of a snapshot, into memory that outlives the object store."""
        try:
            parcel = self._server.get(handle.broadcast)
        except RayError as error:
            if is_object_loss(error):
                raise StatesLostError("the weights after a round were lost with a node") from None
            raise explain(error, doing="fetching the weights after a round") from None
        broadcast: Broadcast = open_parcel(parcel)
        return broadcast.weights.clone()

    def save(self, order: SaveOrder, handle: SnapshotRefs) -> None:
        """Have the server's actor write a checkpoint, while the next round is trained."""
        self._saves.begin(order, handle)

    def flush(self) -> None:
        """Wait for the checkpoint that is being written."""
        self._saves.finish()

    def restore(self, found: Found) -> SnapshotRefs:
        """Restore a checkpoint, or the start."""
        self._saves.forget()
        self._series.leave()
        self._cohorts.combiners.doubt()
        if found.checkpoint is None:
            self._states.restore({}, ())
            return self._server.start()
        self._states.restore(found.checkpoint.states, found.shards)
        return self._server.roll_back(snapshot_of(found.checkpoint))

    def peak_memory(self) -> dict[str, int | None]:
        """Ask all actors; a process that was restarted does not know the previous one's peak."""
        return ask_peak_memory(self._actors)

    def write_profiles(self, folder: Path) -> None:
        """Write each actor's flame graph, and Ray's timeline of all calls."""
        actors = {worker.label: worker.actor for worker in self._pool.members}
        write_profiles(folder, {SERVER: self._server.actor} | actors)

    def describe(self) -> str:
        """Return how many actors train clients."""
        counts = Counter(worker.group for worker in self._pool.members)
        names = [self._setup.groups[group].name for group in sorted(counts)]
        by_group = ", ".join(f"{counts[g]} {name}" for g, name in enumerate(names) if name)
        all_of_them = f"{self.num_actors} client actor{'s' if self.num_actors > 1 else ''}"
        return f"{all_of_them} ({by_group}) on Ray" if by_group else f"{all_of_them} on Ray"

    @property
    def num_actors(self) -> int:
        """The number of client actors, those included that are being restarted."""
        return len(self._pool.members)

    def close(self) -> None:
        """End the actors, and leave the cluster."""
        if ray.is_initialized() and self._connection.watch.is_well():
            for actor in self._actors:
                ray.kill(actor)
            self._fleet.close()
            self._cohorts.combiners.close()
        self._connection.close()

    @property
    def _actors(self) -> list[Any]:
        return [self._server.actor, *(worker.actor for worker in self._pool.members)]

    def _finish(
        self,
        cohort: Cohort,
        finish: Callable[[RoundPlan, SnapshotRefs, Partials, TrainAgain], T],
    ) -> tuple[Cohort, T]:
        """Have the server finish a cohort; return it, too.

        Clients' new states are stored only then, so that the cohort can be trained again if an
        object was lost with its node.
        """
        plan, handle, trained = cohort.plan, cohort.handle, cohort

        def train_again() -> Partials:
            nonlocal trained
            self._cohorts.combiners.doubt()
            trained = self._cohorts.train(plan, handle)
            return cast(Partials, trained.results.partials)

        def restored() -> Partials:
            self._server.restore(handle)
            return train_again()

        def once() -> T:
            return finish(plan, handle, trained.results.partials, train_again)

        finished = self._repeat(once, before_repeat=restored, doing=f"round {plan.round}")
        results: Results = trained.results
        self._cohorts.learn(results.traces)
        self._cohorts.learn_of_states(results)
        self._commit(plan.round, [result for _, result in results.ended + results.repeated])
        return trained, finished

    def _commit(self, round: int, results: Sequence[Returned]) -> None:
        """Store the states that a finished round has produced."""
        retained = {c: state for result in results for c, state in result.states.items()}
        num_bytes = sum(result.report.state_bytes for result in results if result.states)
        self._states.commit(retained, num_bytes=num_bytes)
        limit = self._setup.cluster.state_memory
        if self._states.held_bytes > limit:
            self._saves.spill(label=f"spill-{round:06d}")
        else:
            self._saves.tidy(limit)
