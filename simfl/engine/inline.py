"""The inline engine: everything in this process, under a debugger if you like."""

from __future__ import annotations

import torch

from simfl.client import ClientHost
from simfl.engine.scheduler import split_cohort
from simfl.messages import EvaluationChunk, RoundPlan, RoundReport, Snapshot
from simfl.models.model import MetricSums
from simfl.optimizer import KeptState
from simfl.server import Server
from simfl.vector import Vector

__all__ = ["InlineEngine"]


class InlineEngine:
    """Runs the server and one client host in this process, with the numbers of any cluster.

    Args:
        server: the run's server.
        host: trains all clients.
        chunk_size: clients a chunk; None: the cohort is one chunk.
        threads: torch's threads while the engine is open.
    """

    def __init__(
        self, server: Server, host: ClientHost, *, chunk_size: int | None = None, threads: int = 1
    ) -> None:
        self._server = server
        self._host = host
        self._chunk_size = chunk_size
        self._states: dict[int, KeptState] = {}
        self._former_threads: int | None = torch.get_num_threads()
        torch.set_num_threads(threads)

    def start(self) -> Snapshot:
        """Return what the first round starts from."""
        return self._server.snapshot(1)

    def train(self, plan: RoundPlan, handle: Snapshot) -> tuple[RoundReport, Snapshot]:
        """Train chunk after chunk, then take the server's step."""
        for chunk in split_cohort(plan, self._chunk_size or len(plan.clients)):
            states = [self._states.get(client) for client in chunk.clients]
            result = self._host.train_chunk(chunk, handle.broadcast, states)
            self._server.receive(result.partial)
            kept = zip(chunk.clients, result.states, strict=True)
            self._states |= {client: state for client, state in kept if state is not None}
        report = self._server.end_round(plan)
        return report, self._server.snapshot(plan.round + 1)

    def evaluate(self, chunk: EvaluationChunk, handle: Snapshot) -> list[MetricSums]:
        """Evaluate item after item."""
        return self._host.evaluate_chunk(chunk, handle.broadcast)

    def get_weights(self) -> Vector:
        """Return the server's weights."""
        return self._server.get_weights()

    def describe(self) -> str:
        """Say where clients are trained."""
        return "in this process"

    def close(self) -> None:
        """Give torch its threads back."""
        if self._former_threads is not None:
            torch.set_num_threads(self._former_threads)
            self._former_threads = None
