"""A plug-in, tried out on three clients that take a few steps on small Vectors.

``stack_fault`` tells before a run whether a plug-in can be stacked; ``simfl.testing`` checks the
whole contract on the same clients. Shapes: C clients of a stack.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from simfl.errors import ContractError
from simfl.optimizer.encoding import encode_state
from simfl.optimizer.pipeline import keep_rows, keep_state
from simfl.optimizer.plugin import AuxVar, Context, OptiModule, Regularizer, State
from simfl.optimizer.state import (
    complete_state,
    fill_state,
    repeat_tensors,
    stack_states,
    unstack_state,
)
from simfl.vector import Vector

Clients: TypeAlias = tuple[int, ...]
Shapes: TypeAlias = "Mapping[str, Sequence[int]]"

CLIENTS: Final = (4, 0, 9)
STEPS: Final = (1, 2, 3)
SHAPES: Final = {"scale": (), "bias": (3,), "kernel": (4, 3)}
_MAX_NUMBERS: Final = 12


@dataclass(frozen=True)
class Subject:
    """A plug-in, and how to take it through a round.

    Several clients run as a stack; a single client runs without a client axis.
    """

    plugin: OptiModule | Regularizer
    """The plug-in."""
    aux: Callable[[Vector], AuxVar] | None = None
    """Makes what the other side would share, or None."""
    shapes: Shapes = field(default_factory=lambda: SHAPES)
    """Names and shapes of the weights."""

    def begin(self, clients: Clients, kept: Sequence[State] = ()) -> State:
        """Return the state with which clients enter the first step of a round.

        Args:
            clients: those that take part; several become a stack, as in a round.
            kept: what each client has kept, {} for a new one; empty: all are new.
        """
        aux = self.aux(self.like()) if self.aux else None
        each = [self.plugin.start_round(self.receive(state, aux)) for state in kept or [{}]]
        if len(clients) == 1:
            return fill_state(self.plugin, each[0], self.like())
        if any(kept):
            fresh = fill_state(self.plugin, {}, self.like())
            return stack_states([complete_state(state, fresh) for state in each])
        likes = Vector.stack([self.like() for _ in clients])
        return fill_state(self.plugin, repeat_tensors(each[0], len(clients)), likes)

    def receive(self, state: State, aux: AuxVar | None) -> State:
        """Return the state after auxiliary variables have arrived, if the plug-in takes any."""
        if aux is None or isinstance(self.plugin, Regularizer):
            return state
        return self.plugin.process_aux_var(state, aux)

    def collect(self, state: State) -> AuxVar | None:
        """Return what the plug-in shares, if it shares anything."""
        return None if isinstance(self.plugin, Regularizer) else self.plugin.collect_aux_var(state)

    def like(self, dtype: torch.dtype = torch.float32) -> Vector:
        """Make a Vector for its names, shapes and dtype only."""
        ones = {name: torch.ones(tuple(s), dtype=dtype) for name, s in self.shapes.items()}
        return Vector(ones)

    def gradients(self, client: int, step: int) -> Vector:
        """Make the gradients of one step of a client."""
        return draw_normal(self.shapes, 1000 * client + step)

    def weights(self, client: int, step: int) -> Vector:
        """Make the weights before one step of a client."""
        return draw_normal(self.shapes, 1_000_000 + 1000 * client + step)

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
        """Run some steps, and return the result of each, and the last state.

        Args:
            state: before the first of them.
            clients: one, or those of a stack.
            steps: their numbers.
            owns_state: whether each may overwrite the state that the step before it made.
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

    def two_rounds(self, clients: Clients, new: Clients = ()) -> dict[str, Any]:
        """Return all results of two rounds; in the second, some clients are new."""
        first, state = self.run(self.begin(clients), clients)
        if len(clients) > 1:
            kept = keep_rows(self.plugin, state, len(clients))
        else:
            kept = [keep_state(self.plugin, state)]
        known = [{} if c in new else own for c, own in zip(clients, kept, strict=True)]
        second, last = self.run(self.begin(clients, known), clients)
        shared = self.collect(last)
        return {"updates": [*first, *second], "state": last, "kept": kept, "shared": shared}


# -- what is checked before a run --------------------------------------------------------------


def stack_fault(plugin: OptiModule | Regularizer, shapes: Shapes = SHAPES) -> str | None:
    """Return how a plug-in treats a stack of clients unlike each of them; None if it does not.

    Tested without auxiliary variables, on weights of these names and shapes.
    """
    subject = Subject(plugin, shapes=shapes)
    return fault_of(check_form, subject) or fault_of(check_stack, subject)


def check_form(subject: Subject) -> None:
    """Require that a step keeps names, order, shapes and dtypes, of a client and of a stack."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        like = subject.like(dtype)
        state = subject.plugin.init(like)
        states = stack_states([subject.plugin.init(like) for _ in CLIENTS])
        stack = Vector.stack([like for _ in CLIENTS])
        for given, before in ((like, state), (stack, states)):
            clients = CLIENTS if given.stacked else CLIENTS[:1]
            out, _ = subject.step(before, given, given, Context(clients=clients))
            require(form_of(out) == form_of(given), f"{form_of(given)} became {form_of(out)}")


def check_stack(subject: Subject) -> None:
    """Require that a stack's two rounds are those of its clients, new and returning ones."""
    for new, who in (((), ""), (CLIENTS[1:2], " of new and returning clients")):
        singles = [subject.two_rounds((client,), new) for client in CLIENTS]
        stacks = subject.two_rounds(CLIENTS, new)
        if not subject.plugin.is_deterministic:
            continue
        for row, single in enumerate(singles):
            kept = {"kept": [stacks["kept"][row]]}
            alike = _row({**stacks, "kept": None}, row) | kept
            require_near(single, alike, f"row {row} of a stack{who}:")


def fault_of(check: Callable[..., None], *subject: Any) -> str | None:
    """Return the first line of what a check finds wrong, or raises; None if it passes."""
    try:
        check(*subject)
    except ContractError as broken:
        return str(broken).partition("\n")[0]
    except Exception as error:
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    return None


# -- comparisons -------------------------------------------------------------------------------


def require(condition: bool, otherwise: str) -> None:
    """Raise ContractError unless the condition holds."""
    if not condition:
        raise ContractError(otherwise)


def require_near(
    expected: Any, found: Any, what: str, *, rtol: float = 1e-5, atol: float = 1e-6
) -> None:
    """Require that dicts, lists, Vectors, tensors and numbers agree up to rounding.

    A stack may add up in another order: some roundings of float32, far below a real mistake.
    """
    if isinstance(expected, dict | Vector):
        keys, others = sorted(expected), sorted(found or ())
        require(keys == others, f"{what} has {others}, not {keys}")
        for key in keys:
            require_near(expected[key], found[key], f"{what} {key!r}", rtol=rtol, atol=atol)
    elif isinstance(expected, list):
        for left, right in zip(expected, found, strict=True):
            require_near(left, right, what, rtol=rtol, atol=atol)
    elif expected is None or found is None:
        require(expected is found, f"{what} is {found}, not {expected}")
    else:
        left, right = torch.as_tensor(expected).double(), torch.as_tensor(found).double()
        is_near = left.shape == right.shape and torch.allclose(
            left, right, rtol=rtol, atol=atol, equal_nan=True
        )
        require(is_near, f"{what} is {_numbers(right)}, not {_numbers(left)}")


def bits_of(state: State) -> str:
    """Return a text that tells states apart bit by bit."""
    return json.dumps(encode_state(state))


def form_of(vector: Vector) -> list[tuple[str, list[int], str]]:
    """Return name, shape and dtype of each tensor."""
    return [(name, list(tensor.shape), str(tensor.dtype)) for name, tensor in vector.items()]


def draw_normal(shapes: Shapes, seed: int) -> Vector:
    """Return a Vector of these shapes with numbers from N(0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    return Vector({n: torch.randn(tuple(s), generator=generator) for n, s in shapes.items()})


def _of_clients(clients: Clients, make: Callable[[int, int], Vector], step: int) -> Vector:
    vectors = [make(client, step) for client in clients]
    return Vector.stack(vectors) if len(clients) > 1 else vectors[0]


def _row(value: Any, row: int) -> Any:
    """Return one client's part of a stack's results."""
    match value:
        case dict():
            return {key: _row(item, row) for key, item in value.items()}
        case list():
            return [_row(item, row) for item in value]
        case Vector() | Tensor():
            return unstack_state({"": value}, row + 1)[row][""]
    return value


def _numbers(tensor: Tensor) -> str:
    """Return a tensor as text; of a large one, only the first numbers."""
    if tensor.numel() <= _MAX_NUMBERS:
        return str(tensor.tolist())
    first = ", ".join(map(str, tensor.flatten()[:_MAX_NUMBERS].tolist()))
    return f"[{first}, ...]"
