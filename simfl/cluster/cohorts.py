"""Training a round's cohort on the client actors: its chunks, and what they send and keep."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from simfl.cluster.combining import Combiners
from simfl.cluster.remote_server import Partials, RemoteServer
from simfl.cluster.setup import EngineSetup
from simfl.cluster.wire import Addresses, Ref, SnapshotRefs, address
from simfl.cluster.workers import ClientPool, Ended
from simfl.engine import Cohort, Pace, equal_chunks, guided_chunks
from simfl.engine.chunks import COSTLY_BYTES, deal, fair_shares
from simfl.engine.events import AnyChunk, Assign, Begin
from simfl.messages import Chunk, ChunkReport, ChunkResult, ChunkTrace, CohortPart, RoundPlan
from simfl.states import Place, StateFile, StateTable, StoredObject

WORTH_STORING_BYTES = 1 << 21
"""The size from which a partial is sent faster through the object store, where it is not copied."""

Returned: TypeAlias = ChunkResult[None, Place]
"""What a chunk has returned, without the partial: no reference to it is kept, so that it is freed
once it has been added."""


class Results(NamedTuple):
    """What a cohort's chunks have returned."""

    ended: list[tuple[Assign, Returned]]
    """Each chunk, in the order in which they ended."""
    repeated: list[tuple[Assign, Returned]]
    """Those that were run again for the states of their clients."""
    partials: Partials
    """Theirs; they are not in the results."""

    @property
    def traces(self) -> list[tuple[int, ChunkTrace]]:
        """How each chunk was trained, with its group."""
        return [(a.chunk.group, ChunkTrace(r.report, a.label, a.retries)) for a, r in self.ended]


class Cohorts:
    """Trains cohorts on whichever actors are free.

    Args:
        setup: what is run.
        server: receives the partials.
        pool: the client actors.
        states: where clients' states are.
        is_local: whether all nodes have the driver's files.
    """

    def __init__(
        self,
        setup: EngineSetup,
        server: RemoteServer,
        pool: ClientPool,
        states: StateTable[Place],
        *,
        is_local: bool,
    ) -> None:
        self.combiners = Combiners(setup, server)
        self._setup, self._server, self._pool, self._states = setup, server, pool, states
        self._is_local = is_local
        self._is_dedicated = setup.cluster.placement == "dedicated"
        self._paces: defaultdict[int, Pace] = defaultdict(Pace)
        self._kept_last_round = True

    def train(self, plan: RoundPlan, handle: SnapshotRefs) -> Cohort:
        """Train a cohort; the server is sent what its chunks send."""
        began = time.perf_counter()
        asks = self._setup.client.keeps_state
        asks = asks and (self._kept_last_round or not self._states.is_empty)
        running = self._pool.run(self._pass(self._cut_all(plan)), self._starter(handle, asks=asks))
        ended: list[tuple[Assign, Returned]] = []
        sums = self.combiners.begin()
        for now in _joined(running):
            sums.send([result for _, result in now], is_last=self._pool.is_done)
            ended += [(assign, replace(result, partial=None)) for assign, result in now]
            del now  # see Returned
        unasked = [assign.chunk for assign, result in ended if result.report.keeping and not asks]
        repeated: list[tuple[Assign, Returned]] = []
        if unasked:
            # Repeated chunks give the same partials, bit for bit; only their states are used.
            again = self._pool.run(self._pass(unasked), self._starter(handle, asks=True))
            repeated = [(a, replace(r, partial=None)) for now in _joined(again) for a, r in now]
        results = Results(ended, repeated, sums.finish())
        traces = [trace for _, trace in results.traces]
        traces.sort(key=lambda trace: trace.report.start)
        return Cohort(plan, handle, tuple(traces), time.perf_counter() - began, results)

    def share(self, plan: RoundPlan, part: CohortPart, num_workers: int) -> list[list[Chunk]]:
        """Return what each of so many actors trains of a group's part, if it gets all at once."""
        size = self._setup.cluster.chunk_size
        if isinstance(size, int):
            return deal(equal_chunks(plan, part, size), plan, part, num_workers)
        return fair_shares(plan, part, num_workers)

    @property
    def sends_much(self) -> bool:
        """Whether what chunks send is better sent through the object store, or to combiners."""
        sizes = [self._paces[worker.group].partial_bytes for worker in self._pool.members]
        return (
            self.combiners.are_launched
            or max(sizes, default=0) > WORTH_STORING_BYTES
            or sum(sizes) > COSTLY_BYTES
        )

    def learn(self, traces: Sequence[tuple[int, ChunkTrace]]) -> None:
        """Learn from a round that is done how to cut the next one, and where to form its sums."""
        by_group: defaultdict[int, list[ChunkReport]] = defaultdict(list)
        for group, trace in traces:
            by_group[group].append(trace.report)
        for group, reports in by_group.items():
            self._paces[group].learn(reports)
        self.combiners.learn((trace.actor, trace.report) for _, trace in traces)

    def learn_of_states(self, results: Results) -> None:
        """Learn from a round whether clients keep any, so that those of the next are requested."""
        self._kept_last_round = any(
            result.report.keeping for _, result in results.ended + results.repeated
        )

    def address(self, clients: Sequence[int]) -> tuple[Addresses, list[Ref]]:
        """Return where clients' states are; files are read into the object store if necessary.

        The server's actor has written them, and so can read them; other nodes may not have the
        folder.
        """
        holders: list[Place | StateFile | None] = [self._states.get(client) for client in clients]
        files = [holder for holder in holders if isinstance(holder, StateFile)]
        if files and not self._is_local and files[0].is_local:
            read = StoredObject(self._server.read_states(files), len(files), num_bytes=0)
            rows = {file.client: Place(read, row) for row, file in enumerate(files)}
            holders = [rows[h.client] if isinstance(h, StateFile) else h for h in holders]
        return address(holders)

    def _pass(self, chunks: Sequence[AnyChunk]) -> Begin:
        """Return a pass in which a group's actors train its clients, or an actor its own client."""
        if not self._is_dedicated:
            node_of = self.combiners.node_of
            return Begin(
                chunks,
                lanes=[worker.group for worker in self._pool.workers],
                places=[node_of.get(worker.label, "") for worker in self._pool.workers],
            )
        own_clients = np.argsort(self._setup.group_of, kind="stable").tolist()
        return Begin(chunks, lanes=own_clients, lane_of=lambda chunk: chunk.clients[0])

    def _cut_all(self, plan: RoundPlan) -> list[Chunk]:
        return [chunk for part in plan.split() for chunk in self._cut(plan, part)]

    def _cut(self, plan: RoundPlan, part: CohortPart) -> list[Chunk]:
        if self._is_dedicated:
            return equal_chunks(plan, part, 1)
        if isinstance(self._setup.cluster.chunk_size, int):
            return equal_chunks(plan, part, self._setup.cluster.chunk_size)
        num_workers = sum(worker.group == part.group for worker in self._pool.members)
        pace = self._paces[part.group]
        return guided_chunks(
            plan, part, num_workers, least_work=pace.least_work, sends_much=pace.sends_much
        )

    def _starter(self, handle: SnapshotRefs, *, asks: bool) -> Callable[[Any, Chunk], list[Ref]]:
        """Return what starts a chunk on an actor.

        Args:
            handle: what the round starts from.
            asks: whether to send clients their states, and to request new ones; Ray needs to know
                the number of results beforehand. If no client has kept a state, they are not
                requested, since an object may cost more than training a small client. If a client
                does keep one, the chunk is run again.
        """

        def start(actor: Any, chunk: Chunk) -> list[Ref]:
            number = self._states.num_objects(len(chunk.clients)) if asks else 0
            addresses, objects = self.address(chunk.clients) if asks else (None, [])
            method = actor.train_chunk.options(num_returns=ChunkResult.num_parts(number))
            refs: list[Ref] = method.remote(chunk, handle.broadcast, number, addresses, *objects)
            return refs

        return start


def _joined(
    running: Iterator[list[Ended]],
) -> Iterator[list[tuple[Assign, ChunkResult[Ref, Place]]]]:
    """Iterate over the chunks that have ended since the last time, and their results."""
    for now in running:
        yield [(assign, ChunkResult.join(report, others)) for assign, report, others in now]
        del now  # see Returned
