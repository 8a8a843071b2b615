"""LocalOptimizer: the clients' Optimizer in a round, for one client or for a stack of them.

Shapes: C clients of a stack, A those that still have steps to do, a prefix of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch

from simfl.optimizer.optimizer import Optimizer
from simfl.optimizer.pipeline import (
    PlugIn,
    States,
    SteppedModel,
    apply_step,
    is_ours,
    keep_rows,
    keep_state,
)
from simfl.optimizer.plugin import AuxVar, Context, State
from simfl.optimizer.schedule import Rate, Rates, goes_by_steps, rate_at
from simfl.optimizer.state import (
    complete_state,
    join_states,
    mix_states,
    repeat_tensors,
    stack_states,
)
from simfl.states import GivenStates, KeptState, StackedStates, counts_of, has_kept
from simfl.vector import Scalar, Vector, move, rows_of, to_device, widened


class LocalOptimizer:
    """Trains clients with an Optimizer's plug-ins and rates, from ``begin`` to ``end``.

    Nothing else sees the states of a round until it has ended, so a step may overwrite what the
    previous step created (``Context.owns_state``), which saves large models new memory. A
    step that raises an exception may leave states half changed; they count only after ``end``.

    Clients of a stack end in order from the last one; the others continue as a narrower stack
    (``narrow``).

    Args:
        optimizer: the clients'; it is not modified.
        stacked: whether Vectors have a client axis.
    """

    def __init__(self, optimizer: Optimizer, *, stacked: bool) -> None:
        self._optimizer = optimizer
        self._stacked = stacked

    def begin(
        self,
        clients: Sequence[int],
        *,
        round: int,
        kept: Sequence[KeptState | None],
        aux: Mapping[str, AuxVar],
        like: Vector | None = None,
    ) -> None:
        """Begin a round.

        Args:
            clients: [C] ids; one without a stack.
            round: which round, from 1.
            kept: [C] what each has kept; None of a new one.
            aux: what the server shares.
            like: a Vector with the names, shapes and dtypes of one client's weights. A stack of
                clients that have kept a state needs it.

        Raises:
            KeyError: unless a kept state has a state for each plug-in, and ``aux`` has a module.
        """
        self._pipeline = self._optimizer.pipeline
        self._clients, self._round, self._step = tuple(clients), round, 0
        self._num_steps = counts_of(kept)
        self._ended: list[States] = []
        self._is_filled = False
        self._knows_mean = self._can_know_mean(like)
        if not self._stacked:
            self._states = self._begun(kept[0], aux)
        elif has_kept(kept):
            assert like is not None, "a stack of clients that have kept a state needs like"
            self._states = self._stack(kept, aux, like)
            self._is_filled = True
        else:
            # All are alike until the first gradients, which fill in what is missing for each.
            begun = self._begun(None, aux)
            self._states = tuple(repeat_tensors(state, len(clients)) for state in begun)

    @property
    def num_active(self) -> int:
        """A, the number of clients of the next step."""
        return len(self._clients)

    def narrow(self, num_active: int) -> None:
        """Let the clients after the first so many end."""
        self._ended.append(rows_of(self._states, slice(num_active, None)))
        self._states = rows_of(self._states, slice(num_active))
        self._clients = self._clients[:num_active]

    @torch.no_grad()
    def apply_gradients(self, model: SteppedModel, gradients: Vector) -> None:
        """Run a step of the active clients, and update the model.

        Args:
            model: of one client, or of the A active clients.
            gradients: likewise; of a stack [A, ...]. Their memory is given away.
        """
        device = gradients.tensors[0].device
        rates = Rates(
            self._rate(self._optimizer.lrate, device), self._rate(self._optimizer.w_decay, device)
        )
        self._step += 1
        self._stepped = gradients.names
        weights = self._pipeline.read_weights(model, rates)
        values = gradients
        if self._pipeline.plugins:
            if not self._is_filled:
                self._states = self._pipeline.fill(self._states, gradients)
                self._is_filled = True
            # Rows of a stack may share leaves, which a third party's plug-in might overwrite.
            owns = self._step > 1 and (self._is_ours or not self._stacked)
            context = Context(
                self._optimizer.seed,
                self._clients,
                self._round,
                self._step,
                owns_state=owns,
                owns_gradients=not self._stacked,
                knows_mean=self._knows_mean,
            )
            values, self._states = self._pipeline.run(gradients, weights, self._states, context)
        is_last_use = not self._pipeline.plugins  # which may have put them into their states
        apply_step(model, values, weights, rates=rates, like=gradients, is_last_use=is_last_use)

    def end_steps(self, order: torch.Tensor | None = None) -> None:
        """Join the rows of all clients of a stack; no step follows.

        Args:
            order: [C] the rows in another order; None: as they began.
        """
        if self._ended:
            parts = [self._states, *reversed(self._ended)]
            self._states, self._ended = _for_each_plugin(join_states, parts), []
        if order is not None:
            self._states = rows_of(self._states, order)
            self._num_steps = [self._num_steps[row] for row in order.tolist()]

    @property
    def wants_delta(self) -> bool:
        """Whether ``take_delta`` must be called after the last step."""
        return self._knows_mean and self._step > 0

    def take_delta(self, delta: Vector) -> None:
        """Tell the last module the mean of what it has returned: the delta by K lrate.

        Args:
            delta: start minus end of the weights that were trained, and perhaps of others.
        """
        lrate = rate_at(self._optimizer.lrate, round=self._round, num_steps=0)
        names = [name for name in self._stepped if name in delta]
        mean = delta.select(names) * (1.0 / (self._step * lrate))
        self._states = self._pipeline.end_steps(self._states, mean)

    def collect_aux_var(self) -> dict[str, AuxVar]:
        """Return what the clients share, by aux name: of a stack a row for each, or one value."""
        return self._pipeline.collect_aux_var(self._states)

    def merge_rows(self, aux: dict[str, AuxVar], rows: Sequence[int]) -> dict[str, AuxVar]:
        """Merge what some clients of a stack share, in order, by each module's rule."""
        return self._pipeline.exchange.merge_rows(aux, rows) if self._stacked else aux

    def end(self, steps: Sequence[int]) -> list[KeptState | None]:
        """Return what each client keeps; None if that is nothing.

        Args:
            steps: [C] how many steps each has taken in the round.
        """
        if not self._optimizer.keeps_state:
            return [None] * len(steps)
        pairs = zip(self._pipeline.plugins, self._states, strict=True)
        by_plugin = [self._kept(plugin, state, len(steps)) for plugin, state in pairs]
        return [
            KeptState(total, **self._pipeline.by_kind(states)) if total or any(states) else None
            for total, states in zip(
                self._totals(steps), _by_client(by_plugin, len(steps)), strict=True
            )
        ]

    def end_together(self, steps: Sequence[int]) -> StackedStates | None:
        """Return what ``end`` does as a stack; None if clients may keep different entries."""
        if not (self._stacked and self._is_ours):
            return None
        pairs = zip(self._pipeline.plugins, self._states, strict=True)
        states = tuple(keep_state(plugin, state) for plugin, state in pairs)
        return StackedStates(KeptState(0, **self._pipeline.by_kind(states)), self._totals(steps))

    # -- inside ----------------------------------------------------------------------------

    def _totals(self, steps: Sequence[int]) -> tuple[int, ...]:
        """Return [C] how many steps each client has taken in all; 0 if nothing depends on it."""
        if not goes_by_steps(self._optimizer.lrate, self._optimizer.w_decay):
            return (0,) * len(steps)
        return tuple(n + new for n, new in zip(self._num_steps, steps, strict=True))

    def _can_know_mean(self, like: Vector | None) -> bool:
        """Return whether start minus end tells the mean of what the last module returns.

        The clients of a stack end one by one, so theirs are added up; and float16 and bfloat16
        weights are rounded too much.
        """
        if self._stacked or like is None or not self._pipeline.takes_mean:
            return False
        lrate, w_decay = self._optimizer.lrate, self._optimizer.w_decay
        if goes_by_steps(lrate) or w_decay != 0:
            return False
        is_moving = rate_at(lrate, round=self._round, num_steps=0) > 0
        return is_moving and all(widened(tensor) is tensor for tensor in like.tensors)

    def _begun(self, kept: KeptState | None, aux: Mapping[str, AuxVar]) -> States:
        """Return the states of one client, or of all that are alike, when the round begins."""
        states = self._pipeline.states_of(kept) if kept else self._pipeline.empty()
        return self._pipeline.start_round(self._pipeline.process_aux_var(states, aux))

    def _stack(
        self, kept: Sequence[KeptState | None], aux: Mapping[str, AuxVar], like: Vector
    ) -> States:
        """Return the states of clients of which some have kept theirs, filled in."""
        fresh = self._pipeline.fill(self._pipeline.empty(), like)
        if isinstance(kept, GivenStates) and self._is_ours and (found := kept.together()):
            rows, stack = found
            new = tuple(map(complete_state, self._begun(None, aux), fresh))
            before = self._begun(stack.state, aux)
            pairs = zip(before, new, strict=True)
            return tuple(mix_states(*pair, rows, num_clients=len(kept)) for pair in pairs)
        device = like.tensors[0].device
        known = kept if device.type == "cpu" else move(list(kept), device)
        each = [tuple(map(complete_state, self._begun(state, aux), fresh)) for state in known]
        return _for_each_plugin(stack_states, each)

    @cached_property
    def _is_ours(self) -> bool:
        """Whether all plug-ins treat the rows of a stack as they treat single clients."""
        return all(map(is_ours, self._pipeline.plugins))

    def _kept(self, plugin: PlugIn, state: State, num_clients: int) -> list[State]:
        """Return what each client keeps of a plug-in's state, in its own memory."""
        if not self._stacked:
            return [keep_state(plugin, state)]
        rows = keep_rows(plugin, state, num_clients)
        return [{key: leaf.clone() for key, leaf in row.items()} for row in rows]

    def _rate(self, rate: Rate, device: torch.device) -> Scalar:
        """Return the step's rate: one number, or [A] if it depends on each client's own steps."""
        if not goes_by_steps(rate):
            return rate_at(rate, round=self._round, num_steps=0)
        counts = [before + self._step for before in self._num_steps[: len(self._clients)]]
        rates = [rate_at(rate, round=self._round, num_steps=count) for count in counts]
        if not self._stacked:
            return rates[0]
        return to_device(torch.tensor(rates, dtype=torch.float64), device)


def _for_each_plugin(
    function: Callable[[Sequence[State]], State], parts: Sequence[States]
) -> States:
    """Make one state for each plug-in of those that clients, or parts of a stack, have."""
    return tuple(map(function, zip(*parts, strict=True)))


def _by_client(by_plugin: Sequence[list[State]], num_clients: int) -> list[States]:
    return [tuple(rows[c] for rows in by_plugin) for c in range(num_clients)]
