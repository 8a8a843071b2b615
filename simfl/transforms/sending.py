"""Take clients' updates through the transforms of a scenario.

Shapes: C clients of a stack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from simfl.errors import VectorError
from simfl.optimizer.state import stack_states, unstack_state
from simfl.states import State
from simfl.transforms.codec import Codec
from simfl.transforms.transform import Shapes, UpdateContext, UpdateTransform
from simfl.vector import Vector


@dataclass(frozen=True)
class Sent:
    """What clients send of their updates, and what their transforms keep."""

    update: Vector
    """As the server decodes it: of one client, or a stack."""
    states: list[tuple[State, ...]]
    """[C] what each transform keeps, in order; () of clients that keep nothing."""
    num_bytes: list[int]
    """[C] how many bytes each client sends."""


def send_update(
    transforms: Sequence[UpdateTransform],
    update: Vector,
    kept: Sequence[tuple[State, ...]],
    context: UpdateContext,
) -> Sent:
    """Apply transforms in order.

    Args:
        transforms: of the scenario; only the last may be a codec.
        update: of one client, or of a stack, which is not modified.
        kept: [C] what each client's transforms have kept, on the update's device; () of a client
            that has kept nothing.
        context: where this takes place; ``index`` and ``shapes`` are filled in.

    Raises:
        VectorError: if a transform returns an update of other names, shapes or dtypes.
    """
    one = _first(update)
    context = replace(context, shapes=shapes_of(one))
    num_bytes = (one.num_bytes,) * len(kept)
    rows: list[list[State]] = []
    for index, transform in enumerate(transforms):
        before, at = update, replace(context, index=index)
        state = _begin(transform, [own[index] if own else None for own in kept], update)
        if isinstance(transform, Codec):
            update, state, num_bytes = transform.transmit(update, state, at)
        else:
            update, state = transform.apply(update, state, at)
        _require_form(transform, before, update)
        rows.append(_end(state, len(kept), stacked=update.stacked))
    keeps_any = any(map(any, rows))
    states = [tuple(row[c] for row in rows) if keeps_any else () for c in range(len(kept))]
    return Sent(update, states, list(num_bytes))


def shapes_of(update: Vector) -> Shapes:
    """Return the name and shape of each tensor of one client's update."""
    return {name: tuple(tensor.shape) for name, tensor in update.items()}


def _first(update: Vector) -> Vector:
    """Return one client's update: of a stack, the first row."""
    if not update.stacked:
        return update
    return Vector({name: tensor[0] for name, tensor in update.items()})


def _begin(transform: UpdateTransform, kept: Sequence[State | None], update: Vector) -> State:
    """Return the state of one client, or the stacked ones of several."""
    one = _first(update)
    states = [transform.init(one) if own is None else own for own in kept]
    return stack_states(states) if update.stacked else states[0]


def _end(state: State, num_clients: int, *, stacked: bool) -> list[State]:
    """Return what each client keeps, in its own memory."""
    if not stacked:
        return [state]
    rows = unstack_state(state, num_clients)
    return [{key: leaf.clone() for key, leaf in row.items()} for row in rows]


def _require_form(transform: UpdateTransform, before: Vector, after: Vector) -> None:
    def form(vector: Vector) -> list[tuple[str, object, object]]:
        return [(name, tensor.shape, tensor.dtype) for name, tensor in vector.items()]

    if form(before) != form(after):
        raise VectorError(
            f"the transform {transform.name!r} has returned an update of other names, shapes or "
            "dtypes than it was given; keep them"
        )
