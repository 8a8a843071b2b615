"""The fused loop with steps recorded as CUDA graphs: one launch for a step, not one a kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from workloads import Workload

from bare.one_by_one import Client, Fused
from bare.shared import Shared

__all__ = ["Graphed", "record"]

# B examples of a batch


def record(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Return what repeats a step on the memory that it works on now: on a GPU a recorded graph.

    The step runs a few times first, on a stream of its own, as recording requires; see
    https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs. On a CPU it is returned.
    """
    if device.type != "cuda":
        return step
    beside = torch.cuda.Stream(device)
    beside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(beside):
        for _ in range(3):
            step()
    torch.cuda.current_stream(device).wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=beside):
        step()
    return graph.replay


class _Recorded(NamedTuple):
    """A step on a batch of one size."""

    rows: Tensor
    """[B] whose numbers are replaced before each replay."""
    replay: Callable[[], None]


class Graphed(Fused):
    """``fused`` with SGD alone, each step replayed from a CUDA graph of its batch's size."""

    def __init__(self, workload: Workload, shared: Shared, rank: int) -> None:
        if workload.momentum or workload.prox or workload.scaffold:
            raise SystemExit("the graphed loop knows SGD alone; take fused")
        super().__init__(workload, shared, rank)
        self._losses = torch.zeros((), dtype=torch.float64, device=self.device)
        self._steps: dict[int, _Recorded] = {}

    def train_client(self, client: Client) -> Tensor:
        """Train one client, add its delta, and return its sum of losses."""
        with torch.no_grad():
            self._losses.zero_()
            self.flat.copy_(self.shared.weights)
        for rows_B in client.batches:
            step = self._steps.get(len(rows_B)) or self._record(rows_B)
            step.rows.copy_(rows_B)
            step.replay()
        with torch.no_grad():
            self._add_delta(client)
        return self._losses

    def _record(self, rows_B: Tensor) -> _Recorded:
        """Record a step, and undo what its first runs have changed."""
        rows, before = rows_B.clone(), (self.flat.clone(), self._losses.clone())

        def step() -> None:
            loss = self.loss(rows)
            gradients = torch.autograd.grad(loss, self.parameters)
            with torch.no_grad():
                self._step(list(gradients), None, is_first=False)
                self._losses.add_(loss.detach(), alpha=len(rows))

        replay = record(step, self.device)
        self.flat.detach().copy_(before[0])
        self._losses.copy_(before[1])
        self._steps[len(rows_B)] = _Recorded(rows, replay)
        return self._steps[len(rows_B)]
