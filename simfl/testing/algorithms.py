"""The contract of algorithms, which all of simfl's pass, on three clients with a small model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from torch import Tensor

from simfl.aggregation import merge_contributions
from simfl.algorithms import Algorithm, Total
from simfl.algorithms.returned import require_sent, require_step
from simfl.messages import Contribution
from simfl.models import CrossEntropy, Loss, ModelSpec
from simfl.models.zoo import MLP
from simfl.optimizer.trial import require, require_near
from simfl.states import decode_file, encode_file
from simfl.testing.clauses import check_clauses
from simfl.testing.federation import CLIENTS, STACK, Federation, Played, plain_sums
from simfl.vector import Vector

_SMALL: Final = MLP(hidden=(5,))


def check_algorithm(
    algorithm: Algorithm,
    *,
    model: ModelSpec = _SMALL,
    loss: Loss = CrossEntropy(),  # noqa: B008 it is immutable
    features: int = 6,
    classes: int = 3,
) -> None:
    """Check that an algorithm is what it must be: pure functions, of a client as of a stack.

    It must be a frozen dataclass with a JSON config; leave what it is given as it is; give the same
    bits again, also on another host, and from states that were stored and read back; keep states
    of the form that ``init`` returns; send the same names from each client, and sums
    that add up in any grouping; and treat a stack as it does each client, new and returning ones.

    Args:
        algorithm: an instance with the hyper-parameters to check it with.
        model: what clients train; an algorithm that names layers needs one with these.
        loss: what they minimise.
        features: the length of an input.
        classes: the number of classes of the examples.

    Raises:
        ContractError: naming the clause that is broken, and how.

    >>> from simfl.algorithms import FedAvg
    >>> check_algorithm(FedAvg())
    """
    check_clauses(algorithm, Federation(algorithm, model, loss, features, classes), _CLAUSES)


# -- the clauses -------------------------------------------------------------------------------


def _check_inputs(case: Federation, stack: int = 1) -> None:
    first = case.play(case.broadcast(case.start, round=1), stack=stack)
    second = case.broadcast(case.start, round=2)
    given = {
        "the weights": second.weights,
        "what it has received": second.algorithm,
        "what the clients keep": list(first.states),
    }
    before = {what: _bits(value) for what, value in given.items()}
    case.play(second, first.states, stack=stack)
    for what, value in given.items():
        require(_bits(value) == before[what], f"client() has changed {what}")


def _check_purity(case: Federation) -> None:
    broadcast = case.broadcast(case.start, round=1)
    expected = case.play(broadcast, clients=(0,)).shown
    case.play(broadcast, clients=(1,))
    again = case.play(broadcast, clients=(0,)).shown
    require(_bits(again) == _bits(expected), "the same round, run again, gave other bits")
    other = case.play(broadcast, clients=(0,), host=case.fresh_host()).shown
    require(_bits(other) == _bits(expected), "another host gave other bits")


def _check_form(case: Federation) -> None:
    expected = _form(case.algorithm.init(case.weights))
    second = case.play(case.broadcast(case.start, round=2), case.first.states)
    for number, played in ((1, case.first), (2, second)):
        for found in map(_form, played.shown["kept"]):
            require(found == expected, f"{expected} became {found} in round {number}")


def _check_restoring(case: Federation) -> None:
    kept = case.first.states
    restored = decode_file(encode_file(list(kept)))
    second = case.broadcast(case.start, round=2)
    expected = case.play(second, kept).shown
    found = case.play(second, restored, host=case.fresh_host()).shown
    require(_bits(expected) == _bits(found), "with states read back, a round gave other bits")


def _check_names(case: Federation) -> None:
    for number in (1, 2):
        broadcast = case.broadcast(case.start, round=number)
        forms = [_form(case.play(broadcast, clients=(client,)).shown["sent"]) for client in CLIENTS]
        for client, found in zip(CLIENTS, forms, strict=True):
            require(found == forms[0], f"one client sends {forms[0]}, client {client} {found}")


def _check_grouping(case: Federation) -> None:
    broadcast = case.broadcast(case.start, round=2)

    def single(client: int) -> Contribution:
        return case.play(broadcast, clients=(client,)).sent

    def merge(left: Contribution, right: Contribution) -> Contribution:
        optimizer = case.recipe.optimizer
        return merge_contributions(left, right, aggregator=case.rule, optimizer=optimizer)

    a, b, c = CLIENTS
    left = merge(merge(single(a), single(b)), single(c))
    right = merge(single(a), merge(single(b), single(c)))
    whole = case.play(broadcast)
    expected = whole.shown["sent"]
    for what, found in (("((a b) c)", left), ("(a (b c))", right)):
        _require_near(expected, Played(found, ()).shown["sent"], f"merged as {what},")


def _check_stack(case: Federation) -> None:
    rounds = zip(case.two_rounds(stack=1), case.two_rounds(stack=STACK), strict=True)
    for number, (single, stacked) in enumerate(rounds):
        _require_near(single, stacked, f"of a stack, in round {number // 2 + 1},")


def _check_mixed(case: Federation) -> None:
    first, *_ = case.first.states
    second = case.broadcast(case.start, round=2)
    for states in ([first, None, None], [None, first, None]):
        single = case.play(second, states).shown
        stacked = case.play(second, states, stack=STACK).shown
        _require_near(single, stacked, "of a stack of new and returning clients,")


def _check_server(case: Federation) -> None:
    for number in (1, 2):
        played = case.play(case.broadcast(case.start, round=number))
        total = case.total(played.sent)

        def given(total: Total = total) -> bytes:
            return _bits([total.delta, plain_sums(total.sums), case.start, case.weights])

        before = given()
        first = case.algorithm.server(total, case.start, case.here(round=number))
        require(given() == before, "server() has changed its arguments")
        again = case.algorithm.server(total, case.start, case.here(round=number))
        require(_bits(first) == _bits(again), "server(), called again, gave other bits")
        gradient, state = require_step(case.algorithm, first)
        unknown = [name for name in gradient if name not in case.weights]
        require(not unknown, f"server() returns a gradient of {unknown}, which are no weights")
        entries = (sorted(case.start), sorted(state))
        require(entries[0] == entries[1], f"the server's state {entries[0]} became {entries[1]}")


def _check_send(case: Federation) -> None:
    before = _bits(case.start)
    first = require_sent(case.algorithm, case.algorithm.send(case.start))
    again = case.algorithm.send(case.start)
    require(_bits(case.start) == before, "send() has changed the server's state")
    require(_bits(first) == _bits(again), "send(), called again, gave other bits")


def _check_personal(case: Federation) -> None:
    """Check ``personal``, which by default returns what ``evaluated`` does."""
    kept = case.first.states[1]  # of client 0
    broadcast = case.broadcast(case.start, round=2)

    def personal() -> Vector:
        return case.algorithm.personal(case.local(broadcast, kept))

    given = [kept, broadcast.weights, broadcast.algorithm]
    before = _bits(given)
    first, again = personal(), personal()
    require(_bits(given) == before, "personal() has changed what it was given")
    require(_bits(first) == _bits(again), "personal(), called again, gave other bits")
    unknown = [name for name in first if name not in case.weights]
    require(not unknown, f"personal() returns {unknown}, which are no weights of the model")


_CLAUSES: Final[dict[str, Callable[[Federation], None]]] = {
    "send the same names and shapes from every client": _check_names,
    "keep what init() returns: the same entries, names, shapes and dtypes": _check_form,
    "leave what it is given as it is": _check_inputs,
    "depend on its arguments alone": _check_purity,
    "continue bit for bit from what it keeps": _check_restoring,
    "have a send() that is a function of values": _check_send,
    "have a server() that is a function of values": _check_server,
    "have a personal() that is a function of values": _check_personal,
    "send what adds up in any grouping": _check_grouping,
    "treat a stack of clients as it does each client": _check_stack,
    "treat new and returning clients of a stack as it does each": _check_mixed,
    "leave what it is given as it is, in a stack": partial(_check_inputs, stack=STACK),
}


# -- comparisons -------------------------------------------------------------------------------


def _bits(value: Any) -> bytes:
    """Return what tells nested values apart bit by bit."""
    return encode_file(value)


def _form(values: dict[str, Any]) -> dict[str, Any]:
    """Return the names, shapes and dtypes of Vectors and tensors; of a number its type alone."""

    def of(value: Any) -> Any:
        if isinstance(value, Vector | Mapping):
            return {name: of(tensor) for name, tensor in value.items()}
        if isinstance(value, Tensor):
            return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
        return type(value).__name__

    return {key: of(value) for key, value in values.items()}


_require_near = partial(require_near, rtol=1e-4, atol=1e-5)
"""Up to the rounding of some steps in another order."""
