"""What the check of plug-ins is run on, and how it compares what comes out.

Three clients take a few steps on small Vectors. Shapes: C clients of a stack.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from simfl.optimizer.encoding import encode_state
from simfl.optimizer.plugin import AuxVar, Context, OptiModule, Regularizer, State
from simfl.optimizer.state import complete_state, fill_state, repeat_tensors, stack_states
from simfl.vector import Vector

Clients: TypeAlias = tuple[int, ...]

CLIENTS: Final = (4, 0, 9)
_MAX_NUMBERS: Final = 12
STEPS: Final = (1, 2, 3)
SHAPES: Final = {"scale": (), "bias": (3,), "kernel": (4, 3)}


class BrokenError(Exception):
    """What is wrong with a plug-in."""


@dataclass(frozen=True)
class Subject:
    """A plug-in, and how to take it through a round.

    Where clients are given, several are run as a stack, and one is run alone.
    """

    plugin: OptiModule | Regularizer
    """The plug-in."""
    aux: Callable[[Vector], AuxVar] | None = None
    """Makes what the other side would share, or None."""
    shapes: Mapping[str, Sequence[int]] = field(default_factory=lambda: SHAPES)
    """Names and shapes of the weights."""

    def begin(self, clients: Clients, kept: Sequence[State] = ()) -> State:
        """Return the state with which clients enter the first step of a round.

        Args:
            clients: those that take part; several become a stack, as in the stacked Optimizer.
            kept: what each client has kept, {} for a new one; empty: all are new.
        """
        aux = self.aux(self.like()) if self.aux else None
        each = [self._begun(state, aux) for state in kept or [{}]]
        if len(clients) == 1:
            return fill_state(self.plugin, each[0], self.like())
        if any(kept):
            fresh = fill_state(self.plugin, {}, self.like())
            return stack_states([complete_state(state, fresh) for state in each])
        likes = Vector.stack([self.like() for _ in clients])
        return fill_state(self.plugin, repeat_tensors(each[0], len(clients)), likes)

    def receive(self, state: State, aux: AuxVar | None) -> State:
        """Return the state after auxiliary variables have arrived, if it takes any."""
        if aux is None or isinstance(self.plugin, Regularizer):
            return state
        return self.plugin.process_aux_var(state, aux)

    def _begun(self, state: State, aux: AuxVar | None) -> State:
        return self.plugin.start_round(self.receive(state, aux))

    def like(self, dtype: torch.dtype = torch.float32) -> Vector:
        """Make a Vector for its names, shapes and dtype only."""
        ones = {name: torch.ones(tuple(s), dtype=dtype) for name, s in self.shapes.items()}
        return Vector(ones)

    def gradients(self, client: int, step: int) -> Vector:
        """Make the gradients of one step of a client."""
        return _make_normal(self.shapes, 1000 * client + step)

    def weights(self, client: int, step: int) -> Vector:
        """Make the weights before one step of a client."""
        return _make_normal(self.shapes, 1_000_000 + 1000 * client + step)

    def collect(self, state: State) -> AuxVar | None:
        """Return what it shares, if it shares anything."""
        return None if isinstance(self.plugin, Regularizer) else self.plugin.collect_aux_var(state)

    def step(
        self, state: State, gradients: Vector, weights: Vector, context: Context
    ) -> tuple[Vector, State]:
        """Run one step."""
        if isinstance(self.plugin, Regularizer):
            return self.plugin.update(gradients, weights, state, context)
        return self.plugin.update(gradients, state, context)

    def run(
        self,
        state: State,
        clients: Clients,
        steps: tuple[int, ...] = STEPS,
        *,
        owns_state: bool = False,
    ) -> tuple[list[Vector], State]:
        """Run some steps, and return what came out of each, and the last state.

        Args:
            state: before the first of them.
            clients: whose.
            steps: their numbers.
            owns_state: whether each may overwrite what the step before it has left.
        """
        outputs = []
        for step in steps:
            gradients = _of_clients(clients, self.gradients, step)
            weights = _of_clients(clients, self.weights, step)
            owns = owns_state and step > steps[0]
            context = Context(seed=7, clients=clients, round=1, step=step, owns_state=owns)
            out, state = self.step(state, gradients, weights, context)
            outputs.append(out)
        return outputs, state


def require(condition: bool, otherwise: str) -> None:
    """Raise BrokenError unless the condition holds."""
    if not condition:
        raise BrokenError(otherwise)


def require_leaves(state: Any) -> None:
    """Require that a state is a dict of Vectors and tensors."""
    require(isinstance(state, dict), f"the state is a {type(state).__name__}")
    for key, leaf in state.items():
        kind = type(leaf).__name__
        require(isinstance(leaf, Vector | Tensor), f"{key!r} in the state is a {kind}")


def require_same(expected: list[Vector], found: list[Vector], otherwise: str) -> None:
    """Require the same bits."""
    for index, (left, right) in enumerate(zip(expected, found, strict=True)):
        require(bits_of({"out": left}) == bits_of({"out": right}), f"{otherwise} (step {index})")


def require_near(expected: Any, found: Any, what: str) -> None:
    """Require that dicts, lists, Vectors, tensors and numbers agree but for rounding."""
    if isinstance(expected, dict | Vector):
        keys, others = sorted(expected), sorted(found or ())
        require(keys == others, f"{what} has {others}, not {keys}")
        for key in keys:
            require_near(expected[key], found[key], f"{what} {key!r}")
    elif isinstance(expected, list):
        for left, right in zip(expected, found, strict=True):
            require_near(left, right, what)
    elif expected is None or found is None:
        require(expected is found, f"{what} is {found}, not {expected}")
    else:
        left, right = torch.as_tensor(expected).double(), torch.as_tensor(found).double()
        require(_is_near(left, right), f"{what} is {_numbers(right)}, not {_numbers(left)}")


def bits_of(state: State) -> str:
    """Return a text that tells states apart bit by bit."""
    return json.dumps(encode_state(state))


def form_of(vector: Vector) -> list[tuple[str, list[int], str]]:
    """Return name, shape and dtype of each tensor."""
    return [(name, list(tensor.shape), str(tensor.dtype)) for name, tensor in vector.items()]


def _of_clients(clients: Clients, make: Callable[[int, int], Vector], step: int) -> Vector:
    vectors = [make(client, step) for client in clients]
    return Vector.stack(vectors) if len(clients) > 1 else vectors[0]


def _numbers(tensor: Tensor) -> str:
    """Return a tensor as text; of a large one, only the first numbers."""
    if tensor.numel() <= _MAX_NUMBERS:
        return str(tensor.tolist())
    first = ", ".join(map(str, tensor.flatten()[:_MAX_NUMBERS].tolist()))
    return f"[{first}, ...]"


def _is_near(left: Tensor, right: Tensor) -> bool:
    # A stack may add up in another order: some roundings of float32, far below a real mistake.
    return left.shape == right.shape and torch.allclose(
        left, right, rtol=1e-5, atol=1e-6, equal_nan=True
    )


def _make_normal(shapes: Mapping[str, Sequence[int]], seed: int) -> Vector:
    generator = torch.Generator().manual_seed(seed)
    return Vector(
        {n: torch.randn(tuple(shape), generator=generator) for n, shape in shapes.items()}
    )
