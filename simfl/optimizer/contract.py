"""The contract of plug-ins as a check: every module and regularizer of simfl passes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Final

import torch
from torch import Tensor

from simfl.errors import SimflError
from simfl.optimizer.contract_case import (
    CLIENTS,
    SHAPES,
    STEPS,
    BrokenError,
    Subject,
    bits_of,
    form_of,
    require,
    require_leaves,
    require_near,
    require_same,
)
from simfl.optimizer.encoding import decode_state, encode_state
from simfl.optimizer.pipeline import keep_rows, keep_state
from simfl.optimizer.plugin import AuxVar, Context, OptiModule, Regularizer
from simfl.optimizer.state import stack_states, unstack_state
from simfl.vector import Vector


class ContractError(SimflError, AssertionError):
    """A plug-in breaks the contract; the text says which clause, and how."""


def check_plugin(
    plugin: OptiModule | Regularizer,
    *,
    aux: Callable[[Vector], AuxVar] | None = None,
    shapes: Mapping[str, Sequence[int]] = SHAPES,
) -> None:
    """Check that a module or a regularizer keeps the contract of plug-ins.

    It must be a frozen dataclass with a JSON config; leave its inputs alone; keep all it
    remembers in its state, and nothing but Vectors and tensors in there; keep names, order,
    shapes and dtypes; treat a stack of clients, new and returning ones, as it does each client; and
    go on bit for bit after its state went through JSON. A plug-in whose ``is_deterministic`` is
    False need not give equal results.

    Args:
        plugin: an instance with the hyper-parameters to check it with.
        aux: makes, from a Vector with the names and shapes of the weights, what the other side
            would share; for a module that takes auxiliary variables.
        shapes: the names and shapes of the weights to check it with, for a plug-in that selects
            weights by name.

    Raises:
        ContractError: naming the clause that is broken, and how.

    >>> from simfl.optimizer import Momentum
    >>> check_plugin(Momentum(nesterov=True))
    >>> check_plugin(Momentum(), shapes={"output.weight": (10, 64), "output.bias": (10,)})
    """
    subject = Subject(plugin, aux, shapes)
    for clause, check in _CLAUSES.items():
        where = f"{type(plugin).__name__} must {clause}"
        try:
            check(subject)
        except BrokenError as broken:
            raise ContractError(f"{where}: {broken}") from None
        except Exception as error:
            raise ContractError(f"{where}: {type(error).__name__}: {error}") from error


def stack_fault(
    plugin: OptiModule | Regularizer, shapes: Mapping[str, Sequence[int]] = SHAPES
) -> str | None:
    """Return how a plug-in fails to treat a stack of clients as each of them; None if it does not.

    Tested without auxiliary variables, on weights of these names and shapes.
    """
    subject = Subject(plugin, shapes=shapes)
    try:
        _check_form(subject)
        _check_stack(subject)
    except Exception as error:
        return f"{type(error).__name__}: {error}".removeprefix("BrokenError: ").partition("\n")[0]
    return None


def _check_class(subject: Subject) -> None:
    cls = type(subject.plugin)
    # Fields are looked for in the class itself: a base that is a dataclass does not make it one.
    require(is_dataclass(cls) and "__dataclass_params__" in vars(cls), "it is no dataclass")
    require(getattr(cls, "__dataclass_params__").frozen, "it is not frozen")  # noqa: B009
    require(cls.registry.get(cls.name) is cls, f"the name {cls.name!r} is not this class's")


def _check_config(subject: Subject) -> None:
    again = _through_json(subject).plugin
    require(again == subject.plugin, f"{subject.plugin} came back as {again}")


def _check_states(subject: Subject) -> None:
    require_leaves(subject.plugin.init(subject.like()))
    start = subject.begin((0,))
    for state in (start, subject.run(start, (0,))[1]):
        require_leaves(state)
        require_leaves(subject.plugin.start_round(state))
        require_leaves(subject.plugin.between_rounds(state))


def _check_entries(subject: Subject) -> None:
    expected = subject.plugin.init(subject.like()).keys()
    _, state = subject.run(subject.begin((0,)), (0,))
    missing = sorted(expected - state.keys())
    require(not missing, f"update() returned a state without {missing}, which init() has")


def _check_form(subject: Subject) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        like = subject.like(dtype)
        state = subject.plugin.init(like)
        states = stack_states([subject.plugin.init(like) for _ in CLIENTS])
        stack = Vector.stack([like for _ in CLIENTS])
        for given, before in ((like, state), (stack, states)):
            clients = CLIENTS if given.stacked else CLIENTS[:1]
            out, _ = subject.step(before, given, given, Context(clients=clients))
            require(form_of(out) == form_of(given), f"{form_of(given)} became {form_of(out)}")


def _check_inputs(subject: Subject) -> None:
    state, gradients, weights = subject.begin((0,)), subject.gradients(0, 1), subject.weights(0, 1)
    given = bits_of({"gradients": gradients, "weights": weights})
    for _ in STEPS:
        before = bits_of(state)
        _, new = subject.step(state, gradients, weights, Context(clients=(0,)))
        subject.plugin.start_round(state)
        subject.plugin.between_rounds(state)
        subject.receive(state, subject.aux(subject.like()) if subject.aux else None)
        require(bits_of(state) == before, "it has changed the state it was given")
        after = bits_of({"gradients": gradients, "weights": weights})
        require(after == given, "it has changed the gradients or the weights it was given")
        state = new


def _check_memory(subject: Subject) -> None:
    gradients = subject.gradients(0, 1)
    start = subject.begin((0,))
    _, state = subject.step(start, gradients, subject.weights(0, 1), Context(clients=(0,)))
    before = bits_of(state)
    gradients.mul_(2.0)
    require(bits_of(state) == before, "its state changes when the gradients' memory is reused")


def _check_purity(subject: Subject) -> None:
    if not subject.plugin.is_deterministic:
        return
    start = subject.begin((0,))
    expected, _ = subject.run(start, (0,))
    subject.run(subject.begin((4,)), (4,))
    outputs, _ = subject.run(start, (0,))
    require_same(expected, outputs, "the same steps, run again, gave another result")


def _check_owning(subject: Subject) -> None:
    if not subject.plugin.is_deterministic:
        return
    expected, last = subject.run(subject.begin((0,)), (0,))
    outputs, state = subject.run(subject.begin((0,)), (0,), owns_state=True)
    require_same(expected, outputs, "with owns_state it gave, or later overwrote, another result")
    require(bits_of(state) == bits_of(last), "with owns_state its state became another")


def _check_restoring(subject: Subject) -> None:
    if not subject.plugin.is_deterministic:
        return
    expected, _ = subject.run(subject.begin((0,)), (0,))
    _, state = subject.run(subject.begin((0,)), (0,), STEPS[:1])
    restored = decode_state(json.loads(json.dumps(encode_state(state))))
    outputs, _ = _through_json(subject).run(restored, (0,), STEPS[1:])
    require_same(expected[1:], outputs, "another instance with the same state went on otherwise")


def _check_stack(subject: Subject) -> None:
    for new, who in (((), ""), (CLIENTS[1:2], " of new and returning clients")):
        singles = [_two_rounds(subject, (client,), new) for client in CLIENTS]
        stacks = _two_rounds(subject, CLIENTS, new)
        if not subject.plugin.is_deterministic:
            continue
        for row, single in enumerate(singles):
            kept = {"kept": [stacks["kept"][row]]}
            alike = _row({**stacks, "kept": None}, row) | kept
            require_near(single, alike, f"row {row} of a stack{who}:")


def _check_rounds(subject: Subject) -> None:
    _, state = subject.run(subject.begin((0,)), (0,))
    kept = keep_state(subject.plugin, state)
    outputs, _ = subject.run(subject.begin((0,), [kept]), (0,))
    expected, _ = subject.run(subject.begin((0,), [state]), (0,))
    if subject.plugin.is_deterministic:
        require_same(expected, outputs, "with what it keeps, the next round went otherwise")


def _check_aux(subject: Subject) -> None:
    _, state = subject.run(subject.begin((0,)), (0,))
    before = bits_of(state)
    aux, again = subject.collect(state), subject.collect(state)
    require(bits_of(state) == before, "collecting has changed the state")
    for key, value in (aux or {}).items():
        kind = type(value).__name__
        require(isinstance(value, float | int | Vector), f"{key!r} is a {kind}")
    require_near(aux, again, "the second collection:")
    if aux is None or again is None or isinstance(subject.plugin, Regularizer):
        return
    merged = subject.plugin.merge_aux(aux, again)
    require(merged.keys() == aux.keys(), f"{sorted(aux)} was merged to {sorted(merged)}")


_CLAUSES: Final[dict[str, Callable[[Subject], None]]] = {
    "be a @dataclass(frozen=True) with a name": _check_class,
    "have a config that goes through JSON": _check_config,
    "have states that are dicts of Vectors and tensors": _check_states,
    "keep the entries of its state": _check_entries,
    "keep names, order, shapes and dtypes": _check_form,
    "leave its inputs alone": _check_inputs,
    "keep no reference to the gradients": _check_memory,
    "depend on its arguments alone": _check_purity,
    "overwrite none but its own state": _check_owning,
    "go on bit for bit from a restored state": _check_restoring,
    "share numbers and Vectors, which add up": _check_aux,
    "treat a stack of clients as it does each client": _check_stack,
    "go on in the next round from what it keeps": _check_rounds,
}


def _through_json(subject: Subject) -> Subject:
    config = json.loads(json.dumps(subject.plugin.get_config()))
    return Subject(type(subject.plugin).from_config(config), subject.aux, subject.shapes)


def _two_rounds(
    subject: Subject, clients: tuple[int, ...], new: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Return all results of two rounds; in the second, some clients are new."""
    first, state = subject.run(subject.begin(clients), clients)
    is_stack = len(clients) > 1
    kept = (
        keep_rows(subject.plugin, state, len(clients))
        if is_stack
        else [keep_state(subject.plugin, state)]
    )
    known = [{} if c in new else own for c, own in zip(clients, kept, strict=True)]
    second, last = subject.run(subject.begin(clients, known), clients)
    shared = subject.collect(last)
    return {"updates": [*first, *second], "state": last, "kept": kept, "shared": shared}


def _row(value: Any, row: int) -> Any:
    """Return one client's part of what a stack brings forth."""
    match value:
        case dict():
            return {key: _row(item, row) for key, item in value.items()}
        case list():
            return [_row(item, row) for item in value]
        case Vector() | Tensor():
            return unstack_state({"": value}, row + 1)[row][""]
    return value
