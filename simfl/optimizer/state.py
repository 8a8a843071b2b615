"""States of plug-ins as values: filled in, moved and stacked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from simfl.errors import VectorError
from simfl.optimizer.plugin import OptiModule, Regularizer, State
from simfl.vector import Vector

Leaf = TypeVar("Leaf", Vector, Tensor)


def fill_state(plugin: OptiModule | Regularizer, state: State, like: Vector) -> State:
    """Return the state with missing entries filled in by ``init``, on the gradients' device.

    Args:
        plugin: the plug-in whose state it is.
        state: the empty dict, a previous state, or the entries set by auxiliary variables.
        like: the gradients; for a stack of C clients, each new leaf gets a leading axis C.
    """
    if like.num_clients is None:
        fresh = plugin.init(like)
    else:
        one = plugin.init(Vector({name: tensor[0] for name, tensor in like.items()}))
        fresh = {key: _repeat(leaf, like.num_clients) for key, leaf in one.items()}
    return {key: move_beside(leaf, like) for key, leaf in {**fresh, **state}.items()}


def complete_state(state: State, fresh: State) -> State:
    """Return a client's state with missing entries filled in from a fresh one, as its own Vectors.

    All clients share their memory until they are stacked.
    """
    missing = fresh.keys() - state.keys()
    own = {key: fresh[key] for key in missing}
    own |= {key: leaf.select(leaf) for key, leaf in own.items() if isinstance(leaf, Vector)}
    return {**fresh, **own, **state}


def repeat_tensors(state: State, num_clients: int) -> State:
    """Return the state of a stack of C clients with equal states.

    A tensor gets a leading axis C unless it is 0-d; 0-d tensors and Vectors broadcast.
    """
    return {
        key: _repeat(leaf, num_clients) if isinstance(leaf, Tensor) and leaf.dim() else leaf
        for key, leaf in state.items()
    }


def stack_states(states: Sequence[State]) -> State:
    """Stack the states of C clients: every leaf gets a leading axis C.

    A Vector that is the same object for all clients, such as one sent by the server, stays one
    Vector, which arithmetic broadcasts.

    Raises:
        VectorError: unless all have the same entries, as ``fill_state`` ensures.
    """
    for state in states[1:]:
        if state.keys() != states[0].keys():
            raise VectorError(
                f"clients' states differ: {sorted(states[0])} and {sorted(state)}; "
                "init() must return every entry that a client keeps"
            )
    return {key: _stack([state[key] for state in states]) for key in states[0]}


def mix_states(known: State, new: State, rows: Sequence[int], *, num_clients: int) -> State:
    """Stack the states of C clients of which some have kept theirs.

    As with ``stack_states``, a Vector that is the same object for all stays one Vector.

    Args:
        known: of those clients, a stack; it may lack entries.
        new: of a new client, with all entries.
        rows: which of the C have kept theirs.
        num_clients: C.
    """
    index = None if len(rows) == num_clients else torch.tensor(rows)

    def mixed(old: Tensor, fresh: Tensor, *, has_axis: bool) -> Tensor:
        if has_axis and index is None:
            return old
        stack = fresh.expand(num_clients, *fresh.shape).clone()
        stack[slice(None) if index is None else index] = old.to(stack.device)
        return stack

    def leaf(key: str) -> Any:
        fresh = new[key]
        own: Any = known.get(key, fresh)
        if isinstance(own, Tensor):
            return mixed(own, fresh, has_axis=key in known and own.dim() > 0)
        if own is fresh and key in known:
            return fresh
        tensors = {n: mixed(own[n], fresh[n], has_axis=own.stacked) for n in fresh}
        return Vector(tensors, stacked=True)

    return {key: leaf(key) for key in (new | known)}


def join_states(parts: Sequence[State]) -> State:
    """Concatenate the rows of several stacks; leaves that all share must be the same object."""
    return {key: _join([part[key] for part in parts]) for key in parts[0]}


def unstack_state(state: State, num_clients: int) -> list[State]:
    """Return each client's state: views of the stack, and the leaves that all share."""
    columns = {key: _each(leaf, num_clients) for key, leaf in state.items()}
    return [{key: column[c] for key, column in columns.items()} for c in range(num_clients)]


def with_axes_of(factor: Tensor, tensor: Tensor) -> Tensor:
    """Return a factor, 0-d or [C], with axes of length 1 for the other axes of the tensor."""
    return factor.reshape(factor.shape + (1,) * (tensor.dim() - factor.dim()))


def move_beside(leaf: Leaf, like: Vector) -> Leaf:
    """Return the leaf on the device of a Vector, whose names may be others."""
    if isinstance(leaf, Tensor):
        return leaf.to(like.tensors[0].device)
    if all(tensor.device == like.tensors[0].device for tensor in leaf.tensors):
        return leaf
    moved = {name: tensor.to(like.tensors[0].device) for name, tensor in leaf.items()}
    return Vector(moved, stacked=leaf.stacked)


def _repeat(leaf: Vector | Tensor, num_clients: int) -> Vector | Tensor:
    if isinstance(leaf, Vector):
        return Vector({n: torch.stack([t] * num_clients) for n, t in leaf.items()}, stacked=True)
    return torch.stack([leaf] * num_clients)


def _stack(leaves: list[Vector | Tensor]) -> Vector | Tensor:
    vectors = [leaf for leaf in leaves if isinstance(leaf, Vector)]
    if not vectors:
        return torch.stack([leaf for leaf in leaves if isinstance(leaf, Tensor)])
    if len(vectors) > 1 and all(vector is vectors[0] for vector in vectors):
        return vectors[0]
    return Vector.stack(vectors)


def _join(leaves: list[Vector | Tensor]) -> Vector | Tensor:
    first = leaves[0]
    if isinstance(first, Tensor):
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        return torch.cat(tensors) if first.dim() else first
    if not first.stacked:
        return first
    vectors = [leaf for leaf in leaves if isinstance(leaf, Vector)]
    joined = {name: torch.cat([vector[name] for vector in vectors]) for name in first}
    return Vector(joined, stacked=True)


def _each(leaf: Vector | Tensor, num_clients: int) -> Sequence[Vector | Tensor]:
    if isinstance(leaf, Tensor):
        return leaf.unbind() if leaf.dim() else [leaf] * num_clients
    return leaf.unstack() if leaf.stacked else [leaf] * num_clients
