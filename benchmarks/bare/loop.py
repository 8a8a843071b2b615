"""What every bare loop does: train a rank's clients, and take its part of the server's step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from models import build_module
from recipe import ClientRound
from torch import Tensor
from workloads import Workload

from bare.shared import Shared, lay_out

__all__ = ["Loop"]


class Loop(ABC):
    """How one process trains its clients.

    Args:
        workload: what they do.
        shared: the weights to start from, and where sums go.
        rank: which process this is.
    """

    channels_last: ClassVar[bool] = False
    """How images and the weights of convolutions lie in ``shared``."""

    def __init__(self, workload: Workload, shared: Shared, rank: int) -> None:
        self.work = workload
        self.shared = shared
        self.rank = rank
        self.device = shared.weights.device
        self.module = build_module(workload).to(self.device)
        self.slots, size = lay_out(self.module, channels_last=self.channels_last)
        self.flat = torch.zeros(size, device=self.device)
        self.starts = [slot.view(shared.weights) for slot in self.slots]
        self.deltas = [slot.view(shared.deltas[rank]) for slot in self.slots]

    @abstractmethod
    def prepare(self, clients: list[ClientRound]) -> Any:
        """Lay out what the clients do; not timed."""

    @abstractmethod
    def train(self, prepared: Any) -> Tensor:
        """Train the clients, add up their deltas, and return the sum of losses, 0-d."""

    def run(self, clients: list[ClientRound], prepared: Any) -> None:
        """Train the clients from the shared weights, and leave the sums in shared memory."""
        self.shared.deltas[self.rank].zero_()
        if self.shared.changes is not None:
            self.shared.changes[self.rank].zero_()
        losses = self.train(prepared)
        weight = sum(client.num_examples for client in clients)
        seen = sum(len(rows_B) for client in clients for rows_B in client.batches)
        self.shared.numbers[self.rank] = torch.tensor([weight, float(losses), seen])

    def fold(self, *, ranks: int) -> None:
        """Take this rank's part of the server's step."""
        shared = self.shared
        size = len(shared.weights)
        part = slice(size * self.rank // ranks, size * (self.rank + 1) // ranks)
        mean = shared.deltas[:, part].sum(0) / shared.numbers[:, 0].sum().float()
        shared.weights[part].sub_(mean)
        if shared.control is not None and shared.changes is not None:
            change = shared.changes[:, part].sum(0)
            shared.control[part].add_(change, alpha=1 / self.work.population)

    def inputs(self, rows: Tensor) -> Tensor:
        """Return the inputs of rows, which may have any axes."""
        inputs = self.shared.inputs[rows]
        if self.channels_last and inputs.dim() == 4:
            inputs = inputs.movedim(-1, 1)
        return inputs.float().div_(255) if self.work.as_bytes else inputs

    def rows(self, rows_B: np.ndarray[Any, Any]) -> Tensor:
        """Return row numbers on the device."""
        return torch.from_numpy(rows_B).to(self.device)
