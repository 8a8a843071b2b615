"""Loops that train one client after the other on one resident model."""

from __future__ import annotations

from abc import abstractmethod
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from models import LeanAttention
from recipe import ClientRound
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from workloads import Workload

from bare.loop import Loop
from bare.shared import Shared

__all__ = ["Fused", "Plain", "Tuned"]

# B examples of a batch, P parameters of all tensors


class Client(NamedTuple):
    """A client of ``plain`` and ``fused``."""

    id: int
    weight: int
    batches: list[Tensor]


class OneByOne(Loop):
    """One client after the other on one resident model."""

    def __init__(self, workload: Workload, shared: Shared, rank: int) -> None:
        super().__init__(workload, shared, rank)
        self.parameters = list(self.module.parameters())

    def prepare(self, clients: list[ClientRound]) -> list[Client]:
        return [
            Client(c.client, c.num_examples, [self.rows(rows_B) for rows_B in c.batches])
            for c in clients
        ]

    def train(self, prepared: list[Client]) -> Tensor:
        losses = torch.zeros((), dtype=torch.float64, device=self.device)
        for client in prepared:
            losses += self.train_client(client)
        return losses

    @abstractmethod
    def train_client(self, client: Client) -> Tensor:
        """Train one client, add its delta, and return its sum of losses."""

    def loss(self, rows_B: Tensor) -> Tensor:
        """Return the batch's mean loss."""
        outputs = self.module(self.inputs(rows_B))
        return cross_entropy(outputs, self.shared.targets[rows_B])


class Plain(OneByOne):
    """As a person would write it."""

    def train_client(self, client: Client) -> Tensor:
        """Train one client, add its delta, and return its sum of losses."""
        with torch.no_grad():
            for parameter, start in zip(self.parameters, self.starts, strict=True):
                parameter.copy_(start)
        optimizer = torch.optim.SGD(self.parameters, self.work.lrate, momentum=self.work.momentum)
        totals = [torch.zeros_like(parameter) for parameter in self.parameters]
        losses = torch.zeros((), dtype=torch.float64, device=self.device)
        for rows_B in client.batches:
            optimizer.zero_grad()
            loss = self.loss(rows_B)
            loss.backward()
            self._correct(client, totals)
            optimizer.step()
            losses += loss.detach() * len(rows_B)
        self._add_delta(client, totals)
        return losses

    @torch.no_grad()
    def _correct(self, client: Client, totals: list[Tensor]) -> None:
        for index, (slot, parameter) in enumerate(zip(self.slots, self.parameters, strict=True)):
            gradient = _required(parameter.grad)
            if self.work.prox:
                gradient.add_(parameter - self.starts[index], alpha=self.work.prox)
            if self.work.scaffold:
                totals[index] += gradient
                gradient -= slot.view(_required(self.shared.own)[client.id])
                gradient += slot.view(_required(self.shared.control))

    @torch.no_grad()
    def _add_delta(self, client: Client, totals: list[Tensor]) -> None:
        for index, (slot, parameter) in enumerate(zip(self.slots, self.parameters, strict=True)):
            self.deltas[index] += (self.starts[index] - parameter) * client.weight
            if self.work.scaffold:
                own = slot.view(_required(self.shared.own)[client.id])
                new = totals[index] / len(client.batches)
                slot.view(_required(self.shared.changes)[self.rank]).add_(new - own)
                own.copy_(new)


class Fused(OneByOne):
    """As few passes over the parameters as there can be: parameters are views of one vector."""

    def __init__(self, workload: Workload, shared: Shared, rank: int) -> None:
        super().__init__(workload, shared, rank)
        for slot, parameter in zip(self.slots, self.parameters, strict=True):
            parameter.data = slot.view(self.flat)
        self.velocity = torch.zeros_like(self.flat) if workload.momentum else None

    def train_client(self, client: Client) -> Tensor:
        """Train one client, add its delta, and return its sum of losses."""
        with torch.no_grad():
            self.flat.copy_(self.shared.weights)
        correction_P = self._correction(client)
        losses = torch.zeros((), dtype=torch.float64, device=self.device)
        for step, rows_B in enumerate(client.batches):
            loss = self.loss(rows_B)
            gradients = torch.autograd.grad(loss, self.parameters)
            with torch.no_grad():
                self._step(list(gradients), correction_P, is_first=step == 0)
            losses += loss.detach() * len(rows_B)
        with torch.no_grad():
            self._add_delta(client)
        return losses

    def _correction(self, client: Client) -> Tensor | None:
        if not self.work.scaffold:
            return None
        return _required(self.shared.control) - _required(self.shared.own)[client.id]

    def _step(
        self, gradients: list[Tensor], correction_P: Tensor | None, *, is_first: bool
    ) -> None:
        work = self.work
        if work.prox and not is_first:
            away = torch._foreach_sub(self.parameters, self.starts)
            torch._foreach_add_(gradients, away, alpha=work.prox)
        if self.velocity is not None:
            velocity = [slot.view(self.velocity) for slot in self.slots]
            torch._foreach_mul_(velocity, 0.0 if is_first else work.momentum)
            torch._foreach_add_(velocity, gradients)
            gradients = velocity
        torch._foreach_add_(self.parameters, gradients, alpha=-work.lrate)
        if correction_P is not None:
            self.flat.add_(correction_P, alpha=-work.lrate)

    def _add_delta(self, client: Client) -> None:
        self.flat.sub_(self.shared.weights)  # minus the delta
        self.shared.deltas[self.rank].add_(self.flat, alpha=-client.weight)
        if self.work.scaffold:
            # Option II of the paper, which is the mean of the gradients, with no sum kept of them.
            scale = -1 / (len(client.batches) * self.work.lrate)
            change_P = self.flat.mul_(scale).sub_(_required(self.shared.control))
            _required(self.shared.own)[client.id].add_(change_P)
            _required(self.shared.changes)[self.rank].add_(change_P)


class Tuned(Fused):
    """``fused``, with what else is known to save time on a CPU.

    Convolutions are channels last, ReLU is in place and after pooling, attention copies nothing,
    and the first step reads the shared weights and writes the client's in one pass.
    """

    channels_last: ClassVar[bool] = True

    def __init__(self, workload: Workload, shared: Shared, rank: int) -> None:
        super().__init__(workload, shared, rank)
        if isinstance(self.module, nn.Sequential):
            self.module = _pooled_first(self.module)
        for layer in self.module.modules():
            if isinstance(layer, nn.MultiheadAttention):
                layer.__class__ = LeanAttention
        self.own = [parameter.data for parameter in self.parameters]

    def train_client(self, client: Client) -> Tensor:
        """Train one client, add its delta, and return its sum of losses."""
        correction_P = self._correction(client)
        losses = torch.zeros((), dtype=torch.float64, device=self.device)
        self._point_at(self.starts)
        for step, rows_B in enumerate(client.batches):
            loss = self.loss(rows_B)
            gradients = torch.autograd.grad(loss, self.parameters)
            with torch.no_grad():
                if step == 0:
                    self._first_step(gradients, correction_P)
                else:
                    self._step(list(gradients), correction_P, is_first=False)
            losses += loss.detach() * len(rows_B)
        with torch.no_grad():
            self._add_delta(client)
        return losses

    def _first_step(self, gradients: tuple[Tensor, ...], correction_P: Tensor | None) -> None:
        if self.velocity is not None:
            for slot, gradient in zip(self.slots, gradients, strict=True):
                slot.view(self.velocity).copy_(gradient)
        for own, start, gradient in zip(self.own, self.starts, gradients, strict=True):
            torch.sub(start, gradient, alpha=self.work.lrate, out=own)
        self._point_at(self.own)
        if correction_P is not None:
            self.flat.add_(correction_P, alpha=-self.work.lrate)

    def _point_at(self, weights: list[Tensor]) -> None:
        for parameter, weight in zip(self.parameters, weights, strict=True):
            parameter.data = weight


def _pooled_first(module: nn.Module) -> nn.Module:
    """Return a chain of the layers that pools before each ReLU: the same numbers."""
    layers = list(module.children())
    for index, (layer, after) in enumerate(pairwise(list(layers))):
        if isinstance(layer, nn.ReLU) and isinstance(after, nn.MaxPool2d):
            layers[index], layers[index + 1] = after, layer
    return nn.Sequential(
        *(nn.ReLU(inplace=True) if isinstance(layer, nn.ReLU) else layer for layer in layers)
    )


def _required(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor
