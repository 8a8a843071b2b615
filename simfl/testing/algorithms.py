"""The contract of algorithms, which all of simfl's pass, on three clients with a small model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from simfl.aggregation import Mean, merge_contributions
from simfl.algorithms import Algorithm, Local, ServerSide, Total
from simfl.algorithms.returned import require_sent, require_step
from simfl.client import ClientHost, ClientRecipe
from simfl.data import Examples, FederatedDataset
from simfl.messages import Broadcast, Chunk, Contribution
from simfl.models import CrossEntropy, DataShape, Loss, ModelSpec
from simfl.models.zoo import MLP
from simfl.optimizer import Optimizer
from simfl.optimizer.trial import require
from simfl.sections import ClientSection, OptimizerSection
from simfl.states import Kept, KeptState, State, decode_file, encode_file
from simfl.testing.clauses import check_clauses, through_json
from simfl.vector import Keyed, Vector

_CLIENTS: Final = (2, 0, 1)
"""Longest local work first."""
_SIZES: Final = (5, 3, 9)
_STACK: Final = 4
_SMALL: Final = MLP(hidden=(5,))
_STACK_HINT: Final = (
    "or pass clients' values to functions by given=(...), and do not branch on them in client()"
)

States = Sequence[KeptState | None]


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
    check_clauses(algorithm, _Federation(algorithm, model, loss, features, classes), _CLAUSES)


@dataclass(frozen=True)
class _Played:
    """What some clients' round has come to."""

    sent: Contribution
    states: tuple[KeptState | None, ...]
    """By client, in the order of the cohort."""

    @property
    def shown(self) -> dict[str, Any]:
        """What was sent and kept, by name; without the counts."""
        sums = _plain(self.sent.update_sums)
        update = {"delta": self.sent.total, "weight": self.sent.weight, **sums}
        kept = [state.algorithm if state else {} for state in self.states]
        return {"sent": update, "kept": kept}


@dataclass(frozen=True)
class _Federation:
    """Three clients that hold 5, 3 and 9 examples, and a server."""

    algorithm: Algorithm
    model: ModelSpec
    loss: Loss
    features: int
    classes: int
    rule: Mean = field(default_factory=Mean)

    @cached_property
    def dataset(self) -> FederatedDataset:
        rng = np.random.default_rng(0)
        inputs = rng.normal(size=(sum(_SIZES), self.features)).astype(np.float32)
        ends = np.cumsum((0, *_SIZES))
        examples = Examples(inputs, np.arange(len(inputs)) % self.classes)
        return FederatedDataset(examples, np.arange(len(inputs)), ends, ends[1:])

    @cached_property
    def recipe(self) -> ClientRecipe:
        return ClientRecipe(
            spec=self.model,
            shape=DataShape((self.features,), (), self.classes),
            loss=self.loss,
            metrics=(),
            optimizer=Optimizer(0.1),
            aggregator=self.rule,
            work=ClientSection(optimizer=OptimizerSection(lrate=0.1), epochs=1, batch_size=3),
            seed=3,
            algorithm=self.algorithm,
        )

    @cached_property
    def hosts(self) -> dict[int, ClientHost]:
        return {stack: self.fresh_host(stack=stack) for stack in (1, _STACK)}

    def fresh_host(self, *, stack: int = 1) -> ClientHost:
        """Return a host on which nothing was trained; its algorithm went through JSON."""
        again = through_json(self.algorithm)
        return ClientHost(replace(self.recipe, algorithm=again, stack=stack), self.dataset)

    @cached_property
    def weights(self) -> Vector:
        return self.recipe.build_model().get_weights()

    @cached_property
    def start(self) -> State:
        """The server's state before the first round."""
        return self.algorithm.start(self.weights, lambda draw: self.weights * (1.0 + draw))

    @cached_property
    def first(self) -> _Played:
        """The first round, of clients one at a time."""
        return self.play(self.broadcast(self.start, round=1))

    def broadcast(self, state: State, *, round: int, weights: Vector | None = None) -> Broadcast:
        """Return what a round starts from."""
        sent = self.algorithm.send(state)
        return Broadcast(round, self.weights if weights is None else weights, {}, sent)

    def play(
        self,
        broadcast: Broadcast,
        states: States | None = None,
        *,
        clients: Sequence[int] = _CLIENTS,
        stack: int = 1,
        host: ClientHost | None = None,
    ) -> _Played:
        """Train some clients, one at a time or as a stack."""
        chunk = Chunk(broadcast.round, 0, tuple(clients), len(clients))
        known = [None] * len(clients) if states is None else states
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # else it is trained one at a time
            try:
                result = (host or self.hosts[stack]).train_chunk(chunk, broadcast, known)
            except RuntimeWarning as failure:
                require(stack == 1, f"{failure}, {_STACK_HINT}")
                raise
        (sent,) = result.partial.nodes.values()
        assert sent is not None, "no client was dropped"
        kept = [result.states[client] for client in clients]
        return _Played(sent, tuple(k.state if isinstance(k, Kept) else None for k in kept))

    def total(self, sent: Contribution) -> Total:
        """Return what the server's half gets."""
        delta = Vector({}) if sent.total is None else sent.total / sent.weight
        return Total(delta, sent.weight, int(sent.sums["clients"]), sent.update_sums)

    def here(self, *, round: int, weights: Vector | None = None) -> ServerSide:
        """Return where the server's half runs."""
        now = self.weights if weights is None else weights
        public = self.local(Broadcast(round, now, {})) if self.algorithm.needs_public else None
        return ServerSide(now, len(_SIZES), round, seed=3, public=public)

    def local(self, broadcast: Broadcast, state: KeptState | None = None) -> Local:
        """Return the round of client 0 before anything has happened in it."""
        local: Local = self.hosts[1]._trainer.local(0, broadcast, state)
        return local

    def two_rounds(self, *, stack: int) -> list[dict[str, Any]]:
        """Return what is sent, kept and stored in each of two rounds."""
        weights, state, states, found = self.weights, self.start, None, []
        for number in (1, 2):
            broadcast = self.broadcast(state, round=number, weights=weights)
            played = self.play(broadcast, states, stack=stack)
            found.append(played.shown)
            here = self.here(round=number, weights=weights)
            gradient, state = self.algorithm.server(self.total(played.sent), state, here)
            found.append({"gradient": gradient, "state": state})
            if gradient:
                weights = weights | (weights.select(gradient) - gradient)
            states = played.states
        return found


# -- the clauses -------------------------------------------------------------------------------


def _check_inputs(case: _Federation, stack: int = 1) -> None:
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


def _check_purity(case: _Federation) -> None:
    broadcast = case.broadcast(case.start, round=1)
    expected = case.play(broadcast, clients=(0,)).shown
    case.play(broadcast, clients=(1,))
    again = case.play(broadcast, clients=(0,)).shown
    require(_bits(again) == _bits(expected), "the same round, run again, gave other bits")
    other = case.play(broadcast, clients=(0,), host=case.fresh_host()).shown
    require(_bits(other) == _bits(expected), "another host gave other bits")


def _check_form(case: _Federation) -> None:
    expected = _form(case.algorithm.init(case.weights))
    second = case.play(case.broadcast(case.start, round=2), case.first.states)
    for number, played in ((1, case.first), (2, second)):
        for found in map(_form, played.shown["kept"]):
            require(found == expected, f"{expected} became {found} in round {number}")


def _check_restoring(case: _Federation) -> None:
    kept = case.first.states
    restored = decode_file(encode_file(list(kept)))
    second = case.broadcast(case.start, round=2)
    expected = case.play(second, kept).shown
    found = case.play(second, restored, host=case.fresh_host()).shown
    require(_bits(expected) == _bits(found), "with states read back, a round gave other bits")


def _check_names(case: _Federation) -> None:
    for number in (1, 2):
        broadcast = case.broadcast(case.start, round=number)
        forms = [
            _form(case.play(broadcast, clients=(client,)).shown["sent"]) for client in _CLIENTS
        ]
        for client, found in zip(_CLIENTS, forms, strict=True):
            require(found == forms[0], f"one client sends {forms[0]}, client {client} {found}")


def _check_grouping(case: _Federation) -> None:
    broadcast = case.broadcast(case.start, round=2)

    def single(client: int) -> Contribution:
        return case.play(broadcast, clients=(client,)).sent

    def merge(left: Contribution, right: Contribution) -> Contribution:
        optimizer = case.recipe.optimizer
        return merge_contributions(left, right, aggregator=case.rule, optimizer=optimizer)

    a, b, c = _CLIENTS
    left = merge(merge(single(a), single(b)), single(c))
    right = merge(single(a), merge(single(b), single(c)))
    whole = case.play(broadcast)
    expected = whole.shown["sent"]
    for what, found in (("((a b) c)", left), ("(a (b c))", right)):
        _require_near(expected, _Played(found, ()).shown["sent"], f"merged as {what},")


def _check_stack(case: _Federation) -> None:
    rounds = zip(case.two_rounds(stack=1), case.two_rounds(stack=_STACK), strict=True)
    for number, (single, stacked) in enumerate(rounds):
        _require_near(single, stacked, f"of a stack, in round {number // 2 + 1},")


def _check_mixed(case: _Federation) -> None:
    first, *_ = case.first.states
    second = case.broadcast(case.start, round=2)
    for states in ([first, None, None], [None, first, None]):
        single = case.play(second, states).shown
        stacked = case.play(second, states, stack=_STACK).shown
        _require_near(single, stacked, "of a stack of new and returning clients,")


def _check_server(case: _Federation) -> None:
    for number in (1, 2):
        played = case.play(case.broadcast(case.start, round=number))
        total = case.total(played.sent)

        def given(total: Total = total) -> bytes:
            return _bits([total.delta, _plain(total.sums), case.start, case.weights])

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


def _check_send(case: _Federation) -> None:
    before = _bits(case.start)
    first = require_sent(case.algorithm, case.algorithm.send(case.start))
    again = case.algorithm.send(case.start)
    require(_bits(case.start) == before, "send() has changed the server's state")
    require(_bits(first) == _bits(again), "send(), called again, gave other bits")


def _check_personal(case: _Federation) -> None:
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


_CLAUSES: Final[dict[str, Callable[[_Federation], None]]] = {
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
    "leave what it is given as it is, in a stack": partial(_check_inputs, stack=_STACK),
}


# -- comparisons -------------------------------------------------------------------------------


def _plain(sums: Mapping[str, Any]) -> dict[str, Any]:
    """Return sums with dicts in the place of Vectors by key."""
    plain = dict(sums)
    for key, value in sums.items():
        if isinstance(value, Keyed):
            plain[key] = {"keys": torch.tensor(value.keys), "values": value.values}
    return plain


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


def _require_near(expected: Any, found: Any, what: str) -> None:
    """Require that nested values agree up to the rounding of some steps in another order."""
    if isinstance(expected, dict | Vector):
        keys, others = sorted(expected), sorted(found or ())
        require(keys == others, f"{what} there are {others}, not {keys}")
        for key in keys:
            _require_near(expected[key], found[key], f"{what} {key!r}")
    elif isinstance(expected, list):
        for left, right in zip(expected, found, strict=True):
            _require_near(left, right, what)
    elif expected is None or found is None:
        require(expected is found, f"{what} is {found}, not {expected}")
    else:
        left, right = (torch.as_tensor(value).double() for value in (expected, found))
        require(left.shape == right.shape, f"{what} is {list(right.shape)}, not {list(left.shape)}")
        is_near = torch.allclose(left, right, rtol=1e-4, atol=1e-5, equal_nan=True)
        off = float((left - right).abs().max()) if left.numel() else 0.0
        require(is_near, f"{what} is another by {off:.2g}")
