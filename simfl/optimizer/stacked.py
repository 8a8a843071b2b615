"""StackedOptimizer: the Optimizers of a stack of clients, each a row of the same computation.

Shapes: C clients of a stack, A those that still have steps to do, a prefix of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from simfl.optimizer.exchange import AuxExchange
from simfl.optimizer.optimizer import Optimizer
from simfl.optimizer.pipeline import (
    PlugIns,
    fill_states,
    keep_rows,
    run_modules,
    run_regularizers,
    scale_updates,
    start_rounds,
)
from simfl.optimizer.plugin import AuxVar, Context, State
from simfl.optimizer.schedule import Rate, goes_by_steps, rate_at
from simfl.optimizer.state import (
    complete_state,
    empty_states,
    join_states,
    repeat_tensors,
    rows_of,
    stack_states,
)
from simfl.states import KeptState
from simfl.vector import Scalar, Vector, move


class _States(NamedTuple):
    """The state of each plug-in, in order: of one client, or of a stack."""

    regularizers: tuple[State, ...]
    modules: tuple[State, ...]


class StackableModel(Protocol):
    """What a StackedOptimizer needs of a model of C clients."""

    def get_weights(self, trainable: bool = True) -> Vector:
        """Return a copy of the active clients' weights."""

    def apply_updates(self, updates: Vector) -> None:
        """Add the active clients' updates to their weights."""

    def apply_scaled_updates(self, updates: Vector, scale: float | Tensor) -> None:
        """Add scale times the updates; one number, or one for each active client."""


class StackedOptimizer:
    """Does for a stack what an Optimizer does for one client, with the same pipeline.

    Clients end in order from the last one; the others go on as a narrower stack (``narrow``).

    Args:
        optimizer: the clients'; it is read, and stays as it is.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._modules = optimizer.modules
        self._regularizers = optimizer.regularizers
        self._exchange = AuxExchange(optimizer.modules)

    def begin(
        self,
        clients: Sequence[int],
        *,
        round: int,
        kept: Sequence[KeptState | None],
        aux: Mapping[str, AuxVar],
        like: Vector,
    ) -> None:
        """Begin a round of clients that have a step to do at least.

        Args:
            clients: [C] ids.
            round: which round, from 1.
            kept: [C] what each has kept; None of a new one.
            aux: what the server shares.
            like: a Vector with the names, shapes and dtypes of one client's gradients.
        """
        self._clients, self._round, self._step = tuple(clients), round, 0
        self._num_steps = [state.num_steps if state else 0 for state in kept]
        self._ended: list[_States] = []
        self._is_filled = any(kept)
        if self._is_filled:
            fresh = self._filled(self._empty(), like)
            device = like.tensors[0].device
            known = kept if device.type == "cpu" else move(list(kept), device)
            each = [_completed(self._begun(state, aux), fresh) for state in known]
            self._states = _for_each_plugin(stack_states, each)
        else:
            # All are alike until the first gradients, which fill in what is missing for each.
            begun = self._begun(None, aux)
            self._states = _for_each_plugin(
                lambda states: repeat_tensors(states[0], len(clients)), [begun]
            )

    def narrow(self, num_active: int) -> None:
        """Let the clients after the first so many end."""
        self._ended.append(_rows(self._states, slice(num_active, None)))
        self._states = _rows(self._states, slice(num_active))
        self._clients = self._clients[:num_active]

    @torch.no_grad()
    def apply_gradients(self, model: StackableModel, gradients: Vector) -> None:
        """Run a step of the active clients, [A, ...] each, and update the model."""
        device = gradients.tensors[0].device
        lrate = self._rate(self._optimizer.lrate, device)
        w_decay = self._rate(self._optimizer.w_decay, device)
        decays = isinstance(w_decay, Tensor) or w_decay != 0
        self._step += 1
        weights = model.get_weights() if decays or self._regularizers else None
        values = self._run_plugins(gradients, weights)
        if decays:
            updates = scale_updates(values, weights, lrate=lrate, w_decay=w_decay, like=gradients)
            model.apply_updates(updates)
        else:
            model.apply_scaled_updates(values, -lrate)

    def end_round(self) -> None:
        """Put the rows of all clients together again, in order."""
        if self._ended:
            parts = [self._states, *reversed(self._ended)]
            self._states, self._ended = _for_each_plugin(join_states, parts), []

    def collect_aux_var(self) -> dict[str, AuxVar]:
        """Return what the clients share, by aux name: a row for each, or one value of all."""
        return self._exchange.collect(self._states.modules)

    def merge_rows(self, aux: Mapping[str, AuxVar], rows: Sequence[int]) -> dict[str, AuxVar]:
        """Merge what some of the clients share, in order, by each module's rule."""
        return self._exchange.merge_rows(aux, rows)

    def end_clients(self, steps: Sequence[int]) -> list[KeptState | None]:
        """Return what each client keeps, in memory of its own; None if that is nothing.

        Args:
            steps: [C] how many steps each has taken in the round.
        """
        num_clients = len(steps)
        if not self._optimizer.keeps_state:
            return [None] * num_clients
        counts = goes_by_steps(self._optimizer.lrate, self._optimizer.w_decay)
        totals = [n + new if counts else 0 for n, new in zip(self._num_steps, steps, strict=True)]
        modules = _kept_rows(self._modules, self._states.modules, num_clients)
        regularizers = _kept_rows(self._regularizers, self._states.regularizers, num_clients)
        rows = zip(totals, modules, regularizers, strict=True)
        return [KeptState(*row) if row[0] or any(row[1]) or any(row[2]) else None for row in rows]

    # -- inside ----------------------------------------------------------------------------

    def _begun(self, kept: KeptState | None, aux: Mapping[str, AuxVar]) -> _States:
        """Return the states of one client, or of all that are alike, when the round begins."""
        states = _States(kept.regularizers, kept.modules) if kept else self._empty()
        received = self._exchange.process(states.modules, aux)
        return _States(
            start_rounds(self._regularizers, states.regularizers),
            start_rounds(self._modules, received),
        )

    def _empty(self) -> _States:
        return _States(empty_states(self._regularizers), empty_states(self._modules))

    def _filled(self, states: _States, like: Vector) -> _States:
        return _States(
            fill_states(self._regularizers, states.regularizers, like),
            fill_states(self._modules, states.modules, like),
        )

    def _run_plugins(self, gradients: Vector, weights: Vector | None) -> Vector:
        if not self._regularizers and not self._modules:
            return gradients
        if not self._is_filled:
            self._states = self._filled(self._states, gradients)
            self._is_filled = True
        regularizers, modules = self._states
        context = Context(self._optimizer.seed, self._clients, self._round, self._step)
        values, regularizers = run_regularizers(
            self._regularizers, gradients, weights, regularizers, context
        )
        values, modules = run_modules(self._modules, values, modules, context)
        self._states = _States(regularizers, modules)
        return values

    def _rate(self, rate: Rate, device: torch.device) -> Scalar:
        """Return the rate of the step: one number, or [A] where it goes by a client's own steps."""
        if not goes_by_steps(rate):
            return rate_at(rate, round=self._round, num_steps=0)
        counts = [before + self._step for before in self._num_steps[: len(self._clients)]]
        rates = [rate_at(rate, round=self._round, num_steps=count) for count in counts]
        return torch.tensor(rates, dtype=torch.float64, device=device)


def _completed(states: _States, fresh: _States) -> _States:
    """Return a client's states with what they lack; each client's is a Vector of its own."""
    kinds = zip(states, fresh, strict=True)
    return _States(*(tuple(map(complete_state, *kind)) for kind in kinds))


def _rows(states: _States, rows: slice) -> _States:
    return _States(*(tuple(rows_of(state, rows) for state in plugins) for plugins in states))


def _for_each_plugin(
    function: Callable[[Sequence[State]], State], parts: Sequence[_States]
) -> _States:
    """Make one state for each plug-in of those that clients, or parts of a stack, have."""
    kinds = zip(*parts, strict=True)
    return _States(*(tuple(map(function, zip(*kind, strict=True))) for kind in kinds))


def _kept_rows(
    plugins: PlugIns, states: Sequence[State], num_clients: int
) -> list[tuple[State, ...]]:
    """Return what each client of a stack keeps for each plug-in, without sharing memory with it."""
    pairs = zip(plugins, states, strict=True)
    by_plugin = [keep_rows(plugin, state, num_clients) for plugin, state in pairs]
    return [
        tuple({key: leaf.clone() for key, leaf in rows[c].items()} for rows in by_plugin)
        for c in range(num_clients)
    ]
