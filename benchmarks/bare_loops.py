"""Bare loops: federated averaging in plain PyTorch, with no framework around it.

Two processes with one thread each train half of the cohort each, on one resident model; deltas are
added up in shared memory. Cohorts and batches are those of a recipe, and are laid out before the
clock starts; reading examples, training and adding up are what is timed.

    plain     one client after the other, as a person would write it: backward(), torch.optim.SGD
    fused     one after the other; updates and deltas by torch._foreach, in place
    vmap      all clients of a process in one computation: torch.func.vmap over grad
    batched   the same with hand-written layers: a multi-layer perceptron by baddbmm, SGD alone

    python benchmarks/bare_loops.py fused W2 --rounds 5
"""

from __future__ import annotations

import multiprocessing
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from models import build_module
from recipe import ClientRound, Recipe, make_recipe, read_recipe
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.functional import cross_entropy
from turns import RoundTime, Turns
from workloads import Workload, find_workload

__all__ = ["LOOPS", "Vmap", "share", "train_alone"]

# R ranks (processes), C clients of a rank, B batch, P parameters of all tensors

_ALIGNED = 16
"""Floats; 64 bytes, so that every parameter begins where vector instructions like it."""


class Slot(NamedTuple):
    """Where a parameter lies in the flat vector of all."""

    name: str
    start: int
    shape: torch.Size

    def view(self, flat: Tensor) -> Tensor:
        """Return the parameter's part of [..., P], in its own shape."""
        part = flat[..., self.start : self.start + self.shape.numel()]
        return part.view(*flat.shape[:-1], *self.shape)


def lay_out(module: nn.Module) -> tuple[list[Slot], int]:
    """Return where the parameters lie in a flat vector, and P."""
    slots, end = [], 0
    for name, parameter in module.named_parameters():
        slots.append(Slot(name, end, parameter.shape))
        end += -(-parameter.numel() // _ALIGNED) * _ALIGNED
    return slots, end


@dataclass(frozen=True)
class Shared:
    """What the processes share."""

    inputs: Tensor
    targets: Tensor
    weights: Tensor
    """[P] what a round starts from."""
    deltas: Tensor
    """[R, P] each rank's sum of weighted deltas."""
    numbers: Tensor
    """[R, 3] each rank's sum of weights, sum of losses, and examples seen."""
    control: Tensor | None = None
    """[P] SCAFFOLD's c."""
    own: Tensor | None = None
    """[population, P] SCAFFOLD's c_i."""
    changes: Tensor | None = None
    """[R, P] each rank's sum of what its clients' c_i have changed by."""

    def moved(self, move: Callable[[Tensor], Tensor]) -> Shared:
        """Return the same with every tensor moved."""
        return Shared(**{k: v if v is None else move(v) for k, v in vars(self).items()})


def share(recipe: Recipe, *, ranks: int) -> Shared:
    """Make what the processes share: data, first weights, and room for sums."""
    slots, size = lay_out(build_module(recipe.workload))
    data = recipe.workload.make_examples()
    weights = torch.zeros(size)
    for slot in slots:
        slot.view(weights).copy_(torch.from_numpy(recipe.weights[slot.name]))
    scaffold: dict[str, Tensor] = {}
    if recipe.workload.scaffold:
        scaffold = {
            "control": torch.zeros(size),
            "own": torch.zeros(recipe.workload.population, size),
            "changes": torch.zeros(ranks, size),
        }
    return Shared(
        inputs=torch.from_numpy(data["inputs"]),
        targets=torch.from_numpy(data["targets"]),
        weights=weights,
        deltas=torch.zeros(ranks, size),
        numbers=torch.zeros(ranks, 3, dtype=torch.float64),
        **scaffold,
    )


class Loop(ABC):
    """How one process trains its clients.

    Args:
        workload: what they do.
        shared: the weights to start from, and where sums go.
        rank: which process this is.
    """

    def __init__(self, workload: Workload, shared: Shared, rank: int) -> None:
        self.work = workload
        self.shared = shared
        self.rank = rank
        self.device = shared.weights.device
        self.module = build_module(workload).to(self.device)
        self.slots, size = lay_out(self.module)
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
        return inputs.float().div_(255) if self.work.as_bytes else inputs

    def rows(self, rows_B: np.ndarray[Any, Any]) -> Tensor:
        """Return row numbers on the device."""
        return torch.from_numpy(rows_B).to(self.device)


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


LOOPS: dict[str, type[Loop]] = {"plain": Plain, "fused": Fused, "vmap": Vmap, "batched": Batched}
"""By name."""


def train_alone(
    loop: Loop, recipe: Recipe, *, synchronize: Callable[[], None] = lambda: None
) -> Iterator[RoundTime]:
    """Train the rounds of a recipe one by one in this process.

    Args:
        loop: of the only rank.
        recipe: what is trained.
        synchronize: waits until the device has done all it was given.
    """
    for clients in recipe.rounds():
        prepared = loop.prepare(clients)
        synchronize()
        began = time.perf_counter()
        loop.run(clients, prepared)
        loop.fold(ranks=1)
        synchronize()
        yield RoundTime(time.perf_counter() - began, _mean_loss(loop.shared))


@dataclass(frozen=True)
class Team:
    """What the processes of a bare loop need of each other."""

    kind: str
    recipe: Path
    shared: Shared
    barrier: Any
    ranks: int

    def loop(self, rank: int) -> Loop:
        """Make a rank's loop."""
        torch.set_num_threads(1)
        return LOOPS[self.kind](read_recipe(self.recipe).workload, self.shared, rank)

    def run_round(self, loop: Loop, cohort: list[ClientRound]) -> float:
        """Train a rank's share of the cohort, and return the seconds until all have."""
        clients = cohort[loop.rank :: self.ranks]
        prepared = loop.prepare(clients)
        self.barrier.wait()
        began = time.perf_counter()
        loop.run(clients, prepared)
        self.barrier.wait()
        loop.fold(ranks=self.ranks)
        self.barrier.wait()
        return time.perf_counter() - began


def train_in_turns(kind: str, recipe_file: Path, *, ranks: int) -> None:
    """Be a contestant: rank 0, with the other ranks in processes of their own."""
    torch.set_num_threads(1)
    context = multiprocessing.get_context("spawn")
    recipe = read_recipe(recipe_file)
    shared = share(recipe, ranks=ranks).moved(Tensor.share_memory_)
    team = Team(kind, recipe_file, shared, context.Barrier(ranks), ranks)
    with ExitStack() as stack:
        pipes = [_start_rank(context, team, rank, stack) for rank in range(1, ranks)]
        loop = team.loop(0)
        turns = Turns()
        for cohort in recipe.rounds():
            if not turns.wait():
                break
            for pipe in pipes:
                pipe.send(True)
            seconds = team.run_round(loop, cohort)
            turns.add(seconds, _mean_loss(shared))


def _start_rank(context: Any, team: Team, rank: int, stack: ExitStack) -> Connection:
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(team, rank, theirs), daemon=True)
    process.start()
    stack.callback(process.join)
    stack.callback(ours.send, False)
    return ours


def _serve(team: Team, rank: int, pipe: Connection) -> None:
    loop = team.loop(rank)
    for cohort in read_recipe(team.recipe).rounds():
        if not pipe.recv():
            return
        team.run_round(loop, cohort)
    pipe.recv()


def _mean_loss(shared: Shared) -> float:
    _, losses, seen = shared.numbers.sum(0).tolist()
    return losses / seen


def _required(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


def main(
    kind: Annotated[str, typer.Argument(help=", ".join(LOOPS))],
    workload: Annotated[str, typer.Argument(help="Its name, or the file of a recipe.")],
    rounds: Annotated[int, typer.Option(help="How many, if no recipe says so.")] = 3,
    scale: Annotated[float, typer.Option(help="Shrinks every count.")] = 1.0,
    ranks: Annotated[int, typer.Option(help="Processes.")] = 2,
) -> None:
    """Train in turns if a recipe is given, in this process alone otherwise."""
    if workload.endswith(".npz"):
        train_in_turns(kind, Path(workload), ranks=ranks)
        return
    torch.set_num_threads(1)
    recipe = make_recipe(find_workload(workload, scale=scale), rounds=rounds)
    loop = LOOPS[kind](recipe.workload, share(recipe, ranks=1), 0)
    for number, (seconds, loss) in enumerate(train_alone(loop, recipe), start=1):
        print(f"round {number}: {seconds:.4f} s, loss {loss:.6f}")


if __name__ == "__main__":
    typer.run(main)
