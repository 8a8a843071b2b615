"""RoundFacts: what is known of a client's round, or of a stack's, before anything happens in it.

Shapes: C clients of a stack. Without a stack, there is no such axis.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from simfl.client.recipe import ClientRecipe, Resident
from simfl.client.trainee import Trainee
from simfl.messages import Broadcast
from simfl.optimizer.schedule import goes_by_steps, rate_at
from simfl.optimizer.state import stack_states
from simfl.sampling import LocalWork
from simfl.states import KeptState, State, counts_of
from simfl.vector import Vector, to_device


@dataclass(eq=False, repr=False)
class RoundFacts:
    """The facts that ``simfl.algorithms.Local`` promises, and what else follows from them."""

    resident: Resident
    """What the host's clients use in turn."""
    trainee: Trainee
    """The client, or the stack of them."""
    broadcast: Broadcast
    """What the round starts from."""
    weights: Vector
    """Those of the broadcast's weights that training may change."""
    states: Sequence[KeptState | None]
    """[C] what each client has kept; None for a new one."""
    work: LocalWork
    """What they do in this round."""

    # -- for algorithms --------------------------------------------------------------------

    @property
    def received(self) -> State:
        """What the server's half of the algorithm sends."""
        return self.broadcast.algorithm

    @cached_property
    def kept(self) -> State:
        """What the clients have kept, of new ones what ``init`` returns."""
        fresh = self.recipe.algorithm.init(self.weights)
        each = [{**fresh, **(state.algorithm if state else {})} for state in self.states]
        return self._with_client_axis(stack_states(each)) if self.stacked else each[0]

    @cached_property
    def clients(self) -> Tensor:
        """The ids."""
        return self._numbers(self.trainee.clients, torch.int64)

    @property
    def round(self) -> int:
        """Which round this is."""
        return self.broadcast.round

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.recipe.seed

    @cached_property
    def num_examples(self) -> Tensor:
        """How many examples each client trains on."""
        examples = self.resident.dataset.num_train_examples(self.trainee.clients)
        return self._numbers(examples.tolist(), torch.float64)

    @cached_property
    def num_steps(self) -> Tensor:
        """How many steps each client's work of this round amounts to."""
        examples = self.resident.dataset.num_train_examples(self.trainee.clients)
        return self._numbers(self.work.num_steps(examples).tolist(), torch.float64)

    @property
    def weight(self) -> Tensor:
        """How the server weights each client."""
        if self.recipe.weighting == "tokens":
            dataset = self.resident.dataset
            tokens = [dataset.num_train_targets(client) for client in self.trainee.clients]
            return self._numbers(tokens, torch.float64)
        by = {"examples": self.num_examples, "steps": self.num_steps}
        return by.get(self.recipe.weighting, torch.ones_like(self.num_examples))

    @cached_property
    def lrate(self) -> float | Tensor:
        """The rate of the round's first step."""
        rate = self.resident.optimizer.lrate
        counts = counts_of(self.states)
        rates = [rate_at(rate, round=self.round, num_steps=count) for count in counts]
        return self._numbers(rates, torch.float64) if goes_by_steps(rate) else rates[0]

    def names(self, layers: Iterable[str]) -> tuple[str, ...]:
        """Return the names of the weights and buffers in some layers."""
        return self.resident.model.names_in(layers)

    # -- for simfl -------------------------------------------------------------------------

    @property
    def recipe(self) -> ClientRecipe:
        """The scenario's part of it."""
        return self.resident.recipe

    @property
    def stacked(self) -> bool:
        """Whether it is the round of a stack."""
        return self.trainee.stacked

    @property
    def announced(self) -> State:
        """What the aggregator announces to the clients."""
        return self.broadcast.aggregator

    def fresh(self) -> KeptState:
        """Return what a client keeps whose optimizer has nothing to keep."""
        pipeline = self.resident.optimizer.pipeline
        return KeptState(0, **pipeline.by_kind(pipeline.empty()))

    # -- inside ----------------------------------------------------------------------------

    @cached_property
    def _all_weights(self) -> Vector:
        """All weights of the model, with initial values for what the server does not send."""
        sent, initial = self.broadcast.weights, self.resident.initial
        missing = [name for name in initial if name not in sent]
        return sent | initial.select(missing) if missing else sent

    def _with_client_axis(self, state: State) -> State:
        """Return a state of a stack with the client axis on its Vectors."""
        num_clients = len(self.states)
        return {
            key: leaf.expand(num_clients) if isinstance(leaf, Vector) else leaf
            for key, leaf in state.items()
        }

    def _numbers(self, values: Sequence[float], dtype: torch.dtype) -> Tensor:
        numbers = to_device(torch.tensor(values, dtype=dtype), self.resident.device)
        return numbers if self.stacked else numbers[0]
