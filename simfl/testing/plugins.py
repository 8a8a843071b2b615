"""The contract of an Optimizer's plug-ins, which every module and regularizer of simfl passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from simfl.optimizer import AuxVar, Context, OptiModule, Regularizer
from simfl.optimizer.encoding import decode_state, encode_state
from simfl.optimizer.pipeline import keep_state
from simfl.optimizer.trial import (
    SHAPES,
    STEPS,
    Shapes,
    Subject,
    bits_of,
    check_form,
    check_stack,
    require,
    require_near,
)
from simfl.testing.clauses import check_clauses, require_leaves, through_json
from simfl.vector import Vector


def check_plugin(
    plugin: OptiModule | Regularizer,
    *,
    aux: Callable[[Vector], AuxVar] | None = None,
    shapes: Shapes = SHAPES,
) -> None:
    """Check that a module or a regularizer keeps the contract of plug-ins.

    It must be a frozen dataclass with a JSON config; not change its inputs; keep all that it
    remembers in its state, which holds only Vectors and tensors; keep names, order,
    shapes and dtypes; treat a stack of clients, new and returning ones, as it does each client; and
    continue bit for bit after its state went through JSON. A plug-in whose ``is_deterministic`` is
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
    check_clauses(plugin, Subject(plugin, aux, shapes), _CLAUSES)


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
    _require_same(expected, outputs, "the same steps, run again, gave another result")


def _check_owning(subject: Subject) -> None:
    if not subject.plugin.is_deterministic:
        return
    expected, last = subject.run(subject.begin((0,)), (0,))
    outputs, state = subject.run(subject.begin((0,)), (0,), owns_state=True)
    _require_same(expected, outputs, "with owns_state it gave, or later overwrote, another result")
    require(bits_of(state) == bits_of(last), "with owns_state its state became another")


def _check_restoring(subject: Subject) -> None:
    if not subject.plugin.is_deterministic:
        return
    expected, _ = subject.run(subject.begin((0,)), (0,))
    _, state = subject.run(subject.begin((0,)), (0,), STEPS[:1])
    restored = decode_state(json.loads(json.dumps(encode_state(state))))
    again = replace(subject, plugin=through_json(subject.plugin))
    outputs, _ = again.run(restored, (0,), STEPS[1:])
    _require_same(expected[1:], outputs, "another instance with the same state went on otherwise")


def _check_rounds(subject: Subject) -> None:
    _, state = subject.run(subject.begin((0,)), (0,))
    kept = keep_state(subject.plugin, state)
    outputs, _ = subject.run(subject.begin((0,), [kept]), (0,))
    expected, _ = subject.run(subject.begin((0,), [state]), (0,))
    if subject.plugin.is_deterministic:
        _require_same(expected, outputs, "with what it keeps, the next round went otherwise")


def _check_aux(subject: Subject) -> None:
    _, state = subject.run(subject.begin((0,)), (0,))
    before = bits_of(state)
    aux, again = subject.collect(state), subject.collect(state)
    require(bits_of(state) == before, "collecting has changed the state")
    for key, value in (aux or {}).items():
        kind = type(value).__name__
        require(isinstance(value, float | int | Vector), f"{key!r} is of type {kind}")
    require_near(aux, again, "the second collection:")
    if aux is None or again is None or isinstance(subject.plugin, Regularizer):
        return
    merged = subject.plugin.merge_aux(aux, again)
    require(merged.keys() == aux.keys(), f"{sorted(aux)} was merged to {sorted(merged)}")


_CLAUSES: Final[dict[str, Callable[[Subject], None]]] = {
    "have states that are dicts of Vectors and tensors": _check_states,
    "keep the entries of its state": _check_entries,
    "keep names, order, shapes and dtypes": check_form,
    "leave its inputs alone": _check_inputs,
    "keep no reference to the gradients": _check_memory,
    "depend on its arguments alone": _check_purity,
    "overwrite only its own state": _check_owning,
    "continue bit for bit from a restored state": _check_restoring,
    "share numbers and Vectors, which add up": _check_aux,
    "treat a stack of clients as it does each client": check_stack,
    "continue in the next round from what it keeps": _check_rounds,
}


def _require_same(expected: list[Vector], found: list[Vector], otherwise: str) -> None:
    """Require the same bits."""
    for index, (left, right) in enumerate(zip(expected, found, strict=True)):
        require(bits_of({"out": left}) == bits_of({"out": right}), f"{otherwise} (step {index})")
