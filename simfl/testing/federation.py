"""Three clients with a small model and a server, on which an algorithm is taken through rounds."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch

from simfl.aggregation import Mean
from simfl.algorithms import Algorithm, Local, ServerSide, Total
from simfl.client import ClientHost, ClientRecipe
from simfl.data import Examples, FederatedDataset
from simfl.messages import Broadcast, Chunk, Contribution
from simfl.models import DataShape, Loss, ModelSpec
from simfl.optimizer import Optimizer
from simfl.optimizer.trial import require
from simfl.sections import ClientSection, OptimizerSection
from simfl.states import Kept, KeptState, State
from simfl.testing.clauses import through_json
from simfl.vector import Keyed, Vector

CLIENTS: Final = (2, 0, 1)
"""Longest local work first."""
_SIZES: Final = (5, 3, 9)
STACK: Final = 4
_STACK_HINT: Final = (
    "or pass clients' values to functions by given=(...), and do not branch on them in client()"
)

States = Sequence[KeptState | None]


@dataclass(frozen=True)
class Played:
    """What some clients' round has come to."""

    sent: Contribution
    states: tuple[KeptState | None, ...]
    """By client, in the order of the cohort."""

    @property
    def shown(self) -> dict[str, Any]:
        """What was sent and kept, by name; without the counts."""
        sums = plain_sums(self.sent.update_sums)
        update = {"delta": self.sent.total, "weight": self.sent.weight, **sums}
        kept = [state.algorithm if state else {} for state in self.states]
        return {"sent": update, "kept": kept}


@dataclass(frozen=True)
class Federation:
    """Three clients that hold 5, 3 and 9 examples, and a server."""

    algorithm: Algorithm
    model: ModelSpec
    loss: Loss
    features: int
    classes: int
    rule: Mean = field(default_factory=Mean)

    @cached_property
    def dataset(self) -> FederatedDataset:
        """The clients' examples: normal inputs, the classes in turn."""
        rng = np.random.default_rng(0)
        inputs = rng.normal(size=(sum(_SIZES), self.features)).astype(np.float32)
        ends = np.cumsum((0, *_SIZES))
        examples = Examples(inputs, np.arange(len(inputs)) % self.classes)
        return FederatedDataset(examples, np.arange(len(inputs)), ends, ends[1:])

    @cached_property
    def recipe(self) -> ClientRecipe:
        """What clients do: an epoch in batches of 3."""
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
        """The hosts on which rounds are played, by the size of stacks."""
        return {stack: self.fresh_host(stack=stack) for stack in (1, STACK)}

    def fresh_host(self, *, stack: int = 1) -> ClientHost:
        """Return a host on which nothing was trained; its algorithm went through JSON."""
        again = through_json(self.algorithm)
        return ClientHost(replace(self.recipe, algorithm=again, stack=stack), self.dataset)

    @cached_property
    def weights(self) -> Vector:
        """The weights before the first round."""
        return self.recipe.build_model().get_weights()

    @cached_property
    def start(self) -> State:
        """The server's state before the first round."""
        return self.algorithm.start(self.weights, lambda draw: self.weights * (1.0 + draw))

    @cached_property
    def first(self) -> Played:
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
        clients: Sequence[int] = CLIENTS,
        stack: int = 1,
        host: ClientHost | None = None,
    ) -> Played:
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
        return Played(sent, tuple(k.state if isinstance(k, Kept) else None for k in kept))

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


def plain_sums(sums: Mapping[str, Any]) -> dict[str, Any]:
    """Return sums with dicts in the place of Vectors by key."""
    plain = dict(sums)
    for key, value in sums.items():
        if isinstance(value, Keyed):
            plain[key] = {"keys": torch.tensor(value.keys), "values": value.values}
    return plain
