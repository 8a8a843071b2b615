"""The contract of transforms of updates, which all of simfl's pass."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

import torch
from torch import Tensor

from simfl.optimizer.state import stack_states
from simfl.optimizer.trial import (
    CLIENTS,
    SHAPES,
    Shapes,
    bits_of,
    form_of,
    require,
    require_near,
)
from simfl.states.codec import decode_tree, encode_tree
from simfl.testing.clauses import check_clauses, require_leaves, through_json
from simfl.transforms import Codec, Message, State, UpdateTransform
from simfl.transforms.codec import flatten
from simfl.transforms.trial import ROUNDS, Subject, check_stack
from simfl.vector import Vector

_ONE: Final = CLIENTS[:1]


def check_transform(transform: UpdateTransform, *, shapes: Shapes = SHAPES) -> None:
    """Check that a transform of updates, or a codec, keeps its contract.

    It must be a frozen dataclass with a JSON config; depend on its arguments alone and not change
    them; keep names, order, shapes and dtypes; have a state of Vectors and tensors, say so in
    ``keeps_state``, and continue bit for bit after the state was in a checkpoint; and treat a stack
    of clients, new and returning ones, as it does each client. The messages of a codec must have
    the size they say and all that decoding needs; with feedback, what is sent and what is kept must
    add up to the update.

    Args:
        transform: an instance with the hyper-parameters to check it with.
        shapes: the names and shapes of the updates to check it with.

    Raises:
        ContractError: naming the clause that is broken, and how.

    >>> from simfl.transforms import TopK
    >>> check_transform(TopK(count=2))
    """
    clauses = _CLAUSES | (_OF_CODECS if isinstance(transform, Codec) else {})
    check_clauses(transform, Subject(transform, shapes), clauses)


def _check_states(subject: Subject) -> None:
    transform = subject.transform
    first = transform.init(subject.update(_ONE, 1))
    require_leaves(first)
    _, state = _apply(subject, first)
    require_leaves(state)
    require(state.keys() == first.keys(), f"{sorted(first)} of init() became {sorted(state)}")
    require(
        transform.keeps_state or not state, f"it keeps {sorted(state)}, but keeps_state is False"
    )


def _check_form(subject: Subject) -> None:
    for clients in (_ONE, CLIENTS):
        for dtype in (torch.float32, torch.float64):
            given = subject.update(clients, 1).map(partial(Tensor.to, dtype=dtype))
            one = given.unstack()[0] if given.stacked else given
            states = [subject.transform.init(one) for _ in clients]
            state = stack_states(states) if given.stacked else states[0]
            out, _ = subject.transform.apply(given, state, subject.context(clients, 1))
            require(form_of(out) == form_of(given), f"{form_of(given)} became {form_of(out)}")


def _check_inputs(subject: Subject) -> None:
    update, state = subject.update(_ONE, 1), subject.transform.init(subject.update(_ONE, 1))
    for _ in ROUNDS:
        before = bits_of({"update": update, **state})
        _, new = subject.transform.apply(update, state, subject.context(_ONE, 1))
        require(bits_of({"update": update, **state}) == before, "it has changed its arguments")
        state = new


def _check_memory(subject: Subject) -> None:
    update, state = subject.update(_ONE, 1), subject.transform.init(subject.update(_ONE, 1))
    out, new = subject.transform.apply(update, state, subject.context(_ONE, 1))
    before = bits_of(new)
    update.mul_(2.0)
    out.mul_(3.0)
    require(bits_of(new) == before, "its state changes when the update's memory is reused")


def _check_purity(subject: Subject) -> None:
    again = replace(subject, transform=through_json(subject.transform))
    for clients in (_ONE, CLIENTS):
        first = [bits_of({"update": sent.update}) for sent in subject.rounds(clients)]
        subject.rounds((3,))
        second = [bits_of({"update": sent.update}) for sent in again.rounds(clients)]
        require(first == second, "the same rounds, run again, gave another result")


def _check_restoring(subject: Subject) -> None:
    first, *others = subject.rounds(_ONE)
    for round, expected in zip(ROUNDS[1:], others, strict=True):
        skeleton, tensors = encode_tree(first.states[0])
        restored = decode_tree(json.loads(json.dumps(skeleton)), tensors)
        first = subject.send(_ONE, round, [restored])
        same = bits_of({"update": expected.update}) == bits_of({"update": first.update})
        require(same, f"with a restored state, round {round} went otherwise")


def _check_messages(subject: Subject) -> None:
    codec = subject.transform
    assert isinstance(codec, Codec)
    for clients in (_ONE, CLIENTS):
        context, flat = subject.context(clients, 1), flatten(subject.update(clients, 1))
        message = codec.encode(flat.clone(), context)
        _require_sizes(message, len(clients))
        decoded = codec.decode(message, context)
        require(decoded.shape == flat.shape, f"{list(flat.shape)} became {list(decoded.shape)}")
        require(decoded.is_floating_point(), f"it decodes to {decoded.dtype}")
        received = pickle.loads(pickle.dumps(message))
        again = through_json(codec).decode(received, context)
        require(torch.equal(decoded, again), "another instance has decoded something else")


def _require_sizes(message: Message, num_clients: int) -> None:
    rows = [len(tensor) for tensor in message.tensors.values()]
    require(set(rows) == {num_clients}, f"{num_clients} clients' messages have {rows} rows")
    held = sum(tensor.nbytes for tensor in message.tensors.values()) // num_clients
    sizes = list(message.num_bytes)
    require(len(sizes) == num_clients, f"there are {len(sizes)} sizes of {num_clients} messages")
    require(max(sizes) <= held, f"a message of {held} bytes says it has {max(sizes)}")


def _check_sums(subject: Subject) -> None:
    if not (isinstance(subject.transform, Codec) and subject.transform.feedback):
        return
    total = sent = subject.update(_ONE, 1).zeros_like()
    for round, one in zip(ROUNDS, subject.rounds(_ONE), strict=True):
        total, sent = total + subject.update(_ONE, round), sent + one.update
        require_near(total, sent + one.states[0][0]["residual"], "sent and kept, the sum")


_CLAUSES: Final[dict[str, Callable[[Subject], None]]] = {
    "have states that are dicts of Vectors and tensors": _check_states,
    "keep names, order, shapes and dtypes": _check_form,
    "leave its arguments alone": _check_inputs,
    "share no memory between update and state": _check_memory,
    "depend on its arguments alone": _check_purity,
    "continue bit for bit from a restored state": _check_restoring,
    "treat a stack of clients as it does each client": check_stack,
}

_OF_CODECS: Final[dict[str, Callable[[Subject], None]]] = {
    "send messages that are what they say": _check_messages,
    "send or keep all of an update": _check_sums,
}


def _apply(subject: Subject, state: State) -> tuple[Vector, State]:
    return subject.transform.apply(subject.update(_ONE, 1), state, subject.context(_ONE, 1))
