"""Loops that train all clients of a process in one computation, on stacks of weights."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from recipe import ClientRound
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.functional import cross_entropy
from workloads import Workload

from bare.loop import Loop
from bare.shared import Shared

__all__ = ["Batched", "Vmap"]

# C clients of a stack, B examples of a batch


class Step(NamedTuple):
    """A step of the clients that are still at work: the first C of the stack."""

    rows: Tensor
    """[C, B] of the data; short batches are filled up with rows that do not count."""
    shares: Tensor
    """[C, B] what each example counts in its batch's mean."""
    sizes: Tensor
    """[C] examples of each batch."""


class Stack(NamedTuple):
    """Clients that are trained together, longest work first."""

    weights: Tensor
    """[C] what each delta counts."""
    steps: list[Step]


class Stacked(Loop):
    """All clients of a process in one computation, with their weights in stacks [C, ...].

    Args:
        workload: what they do; not SCAFFOLD.
        shared: as for ``Loop``.
        rank: as for ``Loop``.
        most: clients of a stack.
    """

    def __init__(
        self, workload: Workload, shared: Shared, rank: int, *, most: int | None = None
    ) -> None:
        if workload.scaffold:
            raise SystemExit("the stacked loops know no SCAFFOLD; take plain or fused")
        super().__init__(workload, shared, rank)
        self._most = most

    def prepare(self, clients: list[ClientRound]) -> list[Stack]:
        most = self._most or len(clients)
        slices = [clients[start : start + most] for start in range(0, len(clients), most)]
        return [self._stack(part) for part in slices]

    def train(self, prepared: list[Stack]) -> Tensor:
        losses = torch.zeros((), dtype=torch.float64, device=self.device)
        with torch.no_grad():
            for stack in prepared:
                losses += self._train_stack(stack)
        return losses

    @abstractmethod
    def train_step(self, weights: list[Tensor], step: Step, *, is_first: bool) -> Tensor:
        """Change the weights [C, ...] in place; return the batches' mean losses, [C]."""

    def read(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return inputs [C, B, ...] and targets [C, B]."""
        return self.inputs(step.rows), self.shared.targets[step.rows]

    def _stack(self, clients: list[ClientRound]) -> Stack:
        weights = torch.tensor([float(c.num_examples) for c in clients], device=self.device)
        steps = []
        for number in range(len(clients[0].batches)):
            batches = [c.batches[number] for c in clients if number < len(c.batches)]
            sizes = torch.tensor([len(rows_B) for rows_B in batches])
            width = int(sizes.max())
            rows = np.stack([np.resize(rows_B, width) for rows_B in batches])
            shares = (torch.arange(width) < sizes[:, None]) / sizes[:, None]
            moved = (tensor.to(self.device) for tensor in (shares, sizes))
            steps.append(Step(self.rows(rows), *moved))
        return Stack(weights, steps)

    def _train_stack(self, stack: Stack) -> Tensor:
        count = len(stack.weights)
        weights = [start.expand(count, *start.shape).clone() for start in self.starts]
        losses = torch.zeros((), dtype=torch.float64, device=self.device)
        for number, step in enumerate(stack.steps):
            working = [tensor[: len(step.rows)] for tensor in weights]
            losses_C = self.train_step(working, step, is_first=number == 0)
            losses += losses_C.double() @ step.sizes.double()
        for delta, start, ends in zip(self.deltas, self.starts, weights, strict=True):
            delta.add_(start * stack.weights.sum())
            delta.view(-1).sub_(stack.weights @ ends.view(count, -1))
        return losses


class Vmap(Stacked):
    """torch.func.vmap over grad."""

    def __init__(
        self, workload: Workload, shared: Shared, rank: int, *, most: int | None = None
    ) -> None:
        super().__init__(workload, shared, rank, most=most)
        self._gradients = vmap(grad_and_value(self._loss))
        self._velocity: list[Tensor] = []

    def train_step(self, weights: list[Tensor], step: Step, *, is_first: bool) -> Tensor:
        """Take the step."""
        named = {slot.name: tensor for slot, tensor in zip(self.slots, weights, strict=True)}
        found, losses_C = self._gradients(named, *self.read(step), step.shares)
        gradients = list(found.values())
        if self.work.prox and not is_first:
            away = [w - start for w, start in zip(weights, self.starts, strict=True)]
            torch._foreach_add_(gradients, away, alpha=self.work.prox)
        if self.work.momentum:
            gradients = self._with_momentum(gradients, is_first=is_first)
        torch._foreach_add_(weights, gradients, alpha=-self.work.lrate)
        return losses_C

    def _with_momentum(self, gradients: list[Tensor], *, is_first: bool) -> list[Tensor]:
        if is_first:
            self._velocity = gradients
            return gradients
        velocity = [v[: len(g)] for v, g in zip(self._velocity, gradients, strict=True)]
        torch._foreach_mul_(velocity, self.work.momentum)
        torch._foreach_add_(velocity, gradients)
        return velocity

    def _loss(
        self, weights: dict[str, Tensor], inputs_B: Tensor, targets_B: Tensor, shares_B: Tensor
    ) -> Tensor:
        outputs = functional_call(self.module, weights, (inputs_B,))
        return cross_entropy(outputs, targets_B, reduction="none") @ shares_B


class Batched(Stacked):
    """A multi-layer perceptron with ReLU and SGD, whose layers are written by hand."""

    def __init__(
        self, workload: Workload, shared: Shared, rank: int, *, most: int | None = None
    ) -> None:
        super().__init__(workload, shared, rank, most=most)
        if workload.model["kind"] != "mlp" or workload.momentum or workload.prox:
            raise SystemExit("batched knows a multi-layer perceptron and SGD alone; take vmap")

    def train_step(self, weights: list[Tensor], step: Step, *, is_first: bool) -> Tensor:
        """Take the step."""
        inputs, targets_CB = self.read(step)
        layers = list(zip(weights[::2], weights[1::2], strict=True))
        values = [inputs.flatten(2)]  # [C, B, width] before each layer
        for number, (weight, bias) in enumerate(layers, start=1):
            out = torch.baddbmm(bias.unsqueeze(1), values[-1], weight.transpose(1, 2))
            values.append(out.relu_() if number < len(layers) else out)
        log_p = values[-1].log_softmax(-1)
        chosen = targets_CB.unsqueeze(-1)
        losses_C = -(log_p.gather(-1, chosen).squeeze(-1) * step.shares).sum(1)
        shares = step.shares.unsqueeze(-1)
        error = log_p.exp_().scatter_add_(-1, chosen, -torch.ones_like(shares)).mul_(shares)
        for number in reversed(range(len(layers))):
            weight, bias = layers[number]
            below = error
            if number:  # the weights before this step's change
                below = torch.bmm(error, weight) * (values[number] > 0)
            weight.baddbmm_(error.transpose(1, 2), values[number], alpha=-self.work.lrate)
            bias.sub_(error.sum(1), alpha=self.work.lrate)
            error = below
        return losses_C
