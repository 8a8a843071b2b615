"""Rounds on clusters that are not at hand, simulated event by event with simfl's own decisions.

The chunks are cut by ``guided_chunks`` and assigned by the ``Controller`` of a real run; only the
time that things take is made up, from costs that ``scaling.py`` has measured. The driver and the
server do one thing at a time, and the link of the server's node carries one object at a time.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from typing import Any

from simfl.engine import guided_chunks
from simfl.engine.chunks import WORTH_A_CALL_S
from simfl.engine.controller import Controller
from simfl.engine.events import Assign, Begin, Finished, Joined
from simfl.messages import RoundPlan
from simfl.sections import ClusterSection

__all__ = ["CLUSTERS", "WORKS", "Cluster", "Costs", "Simulated", "Work", "simulate"]

_SUBMITTING = 0.4
"""The share of the driver's cost of a chunk that comes before the chunk; the rest comes after."""
_COMBINED_MB = 64
"""What a round's partials from other nodes come to before nodes add up their own."""
_FAN_IN = 4
_ROOTS = 2


@dataclass(frozen=True)
class Costs:
    """CPU seconds of what a round does besides training."""

    driver_round: float
    driver_chunk: float
    driver_client: float
    driver_actor: float
    server_round: float
    server_chunk: float
    server_chunk_mb: float
    """Of each chunk, for each MB of its partial."""
    server_round_mb: float
    """For each MB of the weights: step, norms, snapshot."""
    actor_chunk: float
    actor_client: float


@dataclass(frozen=True)
class Work:
    """What is trained in a round."""

    name: str
    clients: int
    seconds: float
    """Of a client on one actor."""
    mb: float
    """Of what is broadcast, and of a partial."""
    per_actor: int = 0
    """The clients of a round for each actor of a larger cluster; 0: as many as there are."""

    def grown(self, actors: int) -> Work:
        """Return the same with a cohort that keeps so many actors busy."""
        return replace(self, clients=max(self.clients, self.per_actor * actors))


@dataclass(frozen=True)
class Cluster:
    """Where it is trained."""

    actors: int
    nodes: int
    gbit: float = 25.0
    """A node's link, in Gbit/s, each way."""
    latency_s: float = 0.0005
    """Of a message."""
    cores: int | None = None
    """Those that all processes share; None: each has its own."""
    combiners: bool = True
    """Whether nodes add up their partials where these are large."""


@dataclass(frozen=True)
class Simulated:
    """A round."""

    seconds: float
    ideal_s: float
    """Of the training alone, evenly spread over the actors."""
    chunks: int
    busy: dict[str, float]
    """How long driver, server and the link of its node were busy."""

    @property
    def efficiency(self) -> float:
        """The share of the round in which an actor trains."""
        return self.ideal_s / self.seconds

    def describe(self) -> str:
        """Return the busiest besides the actors, and its share of the round."""
        name, busy = max(self.busy.items(), key=lambda item: item[1])
        return f"{name} {busy / self.seconds:.0%}, {self.chunks:,} chunks"


WORKS = (
    Work("W1", 50, 0.059, 6.5, per_actor=25),
    Work("W2", 500, 0.00004, 0.02, per_actor=250),
    Work("W3", 10, 0.117, 101.0, per_actor=5),
    Work("W4", 10, 0.063, 13.0, per_actor=5),
    # 20 steps of 0.1 s on a GPU, adapters of 5 million float32: assumed, not measured.
    Work("LoRA 1B", 8, 2.0, 20.0, per_actor=4),
)
CLUSTERS = (Cluster(16, 1), Cluster(64, 4), Cluster(256, 16), Cluster(1024, 64))


def simulate(work: Work, cluster: Cluster, costs: Costs) -> Simulated:
    """Simulate a round of equal clients in a steady state."""
    return _Round(work, cluster, costs).run()


class _Round:
    def __init__(self, work: Work, cluster: Cluster, costs: Costs) -> None:
        self.work, self.cluster, self.costs = work, cluster, costs
        self.controller = Controller(ClusterSection(), lambda chunk: (float(len(chunk.clients)),))
        for number in range(cluster.actors):
            self.controller.handle(Joined(f"client-{number}", 0, is_starting=False), now=0.0)
        self.combines = False
        self.driver = 0.0
        self.driver_busy = 0.0
        self.server = 0.0
        self.server_busy = 0.0
        self.link = 0.0
        self.link_busy = 0.0
        self.combined = [0.0] * cluster.nodes
        """By node, when its combiner has added what it has."""
        self.free = [0.0] * cluster.actors
        self.done: list[tuple[float, int, Assign]] = []

    def run(self) -> Simulated:
        """Run it."""
        work, cluster, costs = self.work, self.cluster, self.costs
        plan = RoundPlan(1, tuple(range(work.clients)))
        (part,) = plan.split()
        least = WORTH_A_CALL_S / work.seconds if work.seconds else 0.0
        chunks = guided_chunks(plan, part, cluster.actors, least_work=least)
        remote_mb = len(chunks) * work.mb * (1 - 1 / cluster.nodes)
        self.combines = cluster.combiners and remote_mb >= _COMBINED_MB
        self._drive(costs.driver_round + costs.driver_client * work.clients)
        self._drive(costs.driver_actor * cluster.actors)
        self._broadcast()
        begin = Begin(chunks, lanes=[0] * cluster.actors)
        self._assign(self.controller.handle(begin, now=self.driver))
        while self.done:
            ended, _, assign = heapq.heappop(self.done)
            self.driver = max(self.driver, ended + cluster.latency_s)
            self._drive((1 - _SUBMITTING) * costs.driver_chunk)
            self._receive(assign, self.driver)
            self._assign(self.controller.handle(Finished(assign.task), now=self.driver))
        self._collect()
        end = costs.server_round + costs.server_round_mb * work.mb
        seconds = max(self.driver, self.server) + 2 * cluster.latency_s + end
        busy = {
            "driver": self.driver_busy,
            "server": self.server_busy + end,
            "link": self.link_busy,
        }
        if cluster.cores is not None:
            seconds = max(seconds, self._cpu_seconds(len(chunks), busy) / cluster.cores)
        ideal = work.seconds * work.clients / cluster.actors
        return Simulated(seconds, ideal, len(chunks), busy)

    def _drive(self, seconds: float) -> None:
        self.driver += seconds
        self.driver_busy += seconds

    def _broadcast(self) -> None:
        """Send the weights from the server's node to each of the others."""
        seconds = (self.cluster.nodes - 1) * self._transfer_s
        self.link, self.link_busy = self.driver + seconds, seconds

    @property
    def _transfer_s(self) -> float:
        return self.work.mb * 8e-3 / self.cluster.gbit

    def _assign(self, actions: list[Any]) -> None:
        for assign in actions:
            assert isinstance(assign, Assign)
            self._drive(_SUBMITTING * self.costs.driver_chunk)
            clients = len(assign.chunk.clients)
            seconds = self.costs.actor_chunk + clients * (
                self.costs.actor_client + self.work.seconds
            )
            is_remote = assign.actor % self.cluster.nodes
            there = max(self.driver, self.link if is_remote and not self.done else 0.0)
            began = max(there + self.cluster.latency_s, self.free[assign.actor])
            self.free[assign.actor] = began + seconds
            heapq.heappush(self.done, (began + seconds, assign.task, assign))

    def _receive(self, assign: Assign, now: float) -> None:
        there, node = now + self.cluster.latency_s, assign.actor % self.cluster.nodes
        if node and self.combines:
            self.combined[node] = max(self.combined[node], there) + self._adding_s
            return
        if node:
            self.link = there = max(self.link, there) + self._transfer_s
            self.link_busy += self._transfer_s
        self._serve(there)

    def _collect(self) -> None:
        """Send the sums of the nodes to the server: two roots of each, or of four combiners."""
        if not any(self.combined):
            return
        senders, there = self.cluster.nodes - 1, max(self.combined)
        while senders > _FAN_IN:  # combiners send their roots to every fourth one
            there += _FAN_IN * _ROOTS * (self._transfer_s + self._adding_s)
            senders = -(-senders // _FAN_IN)
        for _ in range(senders * _ROOTS):
            self.link = max(self.link, there) + self._transfer_s
            self.link_busy += self._transfer_s
            self._serve(self.link)

    def _serve(self, there: float) -> None:
        self.server = max(self.server, there) + self._adding_s
        self.server_busy += self._adding_s

    @property
    def _adding_s(self) -> float:
        return self.costs.server_chunk + self.costs.server_chunk_mb * self.work.mb

    def _cpu_seconds(self, chunks: int, busy: dict[str, float]) -> float:
        costs = self.costs
        actors = chunks * costs.actor_chunk + self.work.clients * costs.actor_client
        return busy["driver"] + busy["server"] + actors
