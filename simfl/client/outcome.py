"""From clients' updates to what they contribute and keep: weighting, finiteness, sums, states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from simfl.aggregation import Separate
from simfl.algorithms import Algorithm, Update
from simfl.algorithms.returned import read_weights, require_delta
from simfl.client.local import MAIN, LocalRound
from simfl.client.sending import SentDelta, send_delta
from simfl.client.updates import (
    ClientRow,
    Outcome,
    aux_values,
    count_sent_bytes,
    count_sums,
    finite_rows,
)
from simfl.errors import ConfigError, NonFiniteUpdateError
from simfl.messages import NOT_FINITE, Contribution
from simfl.optimizer import AuxVar
from simfl.optimizer.state import unstack_state
from simfl.states import Dropped, GivenStates, Kept, KeptRow, KeptState, StackedStates, State
from simfl.vector import Keyed, Vector, find_vectors, move, tensors_of, widened


def to_outcome(
    local: LocalRound,
    update: Update,
    kept: State,
    rows: Sequence[ClientRow],
) -> Outcome:
    """Return what clients contribute and keep after their round.

    Args:
        local: their round, which is over.
        update: what they send.
        kept: what the algorithm keeps of them.
        rows: [C] of the clients, not yet with norms and with what they keep.

    Raises:
        NonFiniteUpdateError: if an update is not finite and the scenario says to raise.
        ConfigError: if the algorithm breaks its contract.
    """
    weights = _weights(local, update, rows)
    sent = send_delta(local, _sent(local, update, kept), weights, rows)
    delta = sent.delta
    main = local.optimizers.get(MAIN)
    aux = main.collect_aux_var() if main is not None else {}
    rows = _with_norms(rows, delta)
    values = [*aux_values(aux), *update.sums.values(), *local.personal.values]
    values += [] if update.weight is None else [torch.tensor(weights)]
    values += find_vectors(kept)
    finite = finite_rows(delta, [row.delta_norm for row in rows], values, stacked=local.stacked)
    checked = [
        row if is_finite else _refuse_or_drop(row, local, sent.lost_by(index))
        for index, (row, is_finite) in enumerate(zip(rows, finite, strict=True))
    ]
    used = [index for index, is_finite in enumerate(finite) if is_finite]
    if not used:
        return Outcome(None, checked)
    contribution = _contribution(local, update, sent, weights, aux, rows, used)
    if local.recipe.keeps_state:
        checked = _with_states(checked, _kept_by_each(local, kept, sent.states))
    return Outcome(contribution, checked)


# -- what is sent ------------------------------------------------------------------------------


def _sent(local: LocalRound, update: Update, kept: State) -> Vector | None:
    """Return the delta of what clients share, in memory that the aggregator may overwrite."""
    if update.delta is None:
        return None
    delta = require_delta(
        local.recipe.algorithm, update.delta, local.weights, stacked=local.stacked
    )
    if type(local.recipe.algorithm).client is Algorithm.client:
        return delta
    others = [update.sums, kept, local.weights, local.received, local.kept]
    used = {tensor.untyped_storage().data_ptr() for tensor in tensors_of(others)}
    return delta.map(lambda tensor: _own(tensor, used))


def _name(local: LocalRound) -> str:
    return f"algorithm {local.recipe.algorithm.name!r}"


def _own(tensor: Tensor, used: set[int]) -> Tensor:
    """Return a tensor as the aggregator needs it, copied if others use its memory.

    Float16 and bfloat16 become float32, integers float64: see ``simfl.models.model.difference``.
    """
    wide = widened(tensor) if tensor.is_floating_point() else tensor.double()
    return wide.clone() if wide.untyped_storage().data_ptr() in used else wide


def _with_norms(rows: Sequence[ClientRow], delta: Vector | None) -> list[ClientRow]:
    if delta is None or not delta:
        return [row._replace(delta_norm=0.0) for row in rows]
    norms = delta.norm().double().reshape(-1).tolist()
    return [ClientRow(*row[:3], norm, *row[4:]) for row, norm in zip(rows, norms, strict=True)]


def _contribution(
    local: LocalRound,
    update: Update,
    sent: SentDelta,
    weights: Sequence[float],
    aux: dict[str, AuxVar],
    rows: Sequence[ClientRow],
    used: Sequence[int],
) -> Contribution:
    """Return what the clients that are not dropped add to the round."""
    num_clients, delta = len(rows), sent.delta
    total: Any = None
    used_weights = [weights[index] for index in used]
    others = len(used) * count_sent_bytes(update.sums.values(), num_clients=num_clients)
    dense = len(used) * count_sent_bytes([delta], num_clients=num_clients)
    sums = count_sums(
        [rows[index] for index in used],
        delta_bytes=sum(sent.num_bytes[index] for index in used) + others,
        dense_bytes=dense + others,
        aux_bytes=len(used) * count_sent_bytes(aux_values(aux), num_clients=num_clients),
    )
    if delta is not None and local.broadcast.separate:
        each = delta.unstack() if delta.stacked else [delta]
        total = Separate(tuple(zip([each[i] for i in used], used_weights, strict=True)))
    elif delta is not None and delta.stacked:
        deltas = delta if len(used) == num_clients else delta.rows(torch.tensor(used))
        total = local.recipe.aggregator.lift_stack(deltas, used_weights, local.announced)
    elif delta is not None:
        total = local.recipe.aggregator.lift(delta, used_weights[0], local.announced)
    main = local.optimizers.get(MAIN)
    merged = main.merge_rows(aux, used) if main is not None else {}
    update_sums = {
        key: _sum_clients(value, used, stacked=local.stacked) for key, value in update.sums.items()
    }
    return Contribution(total, sum(used_weights), merged, sums, update_sums)


def _weights(local: LocalRound, update: Update, rows: Sequence[ClientRow]) -> list[float]:
    if update.weight is None:
        return [local.recipe.weigh(row, local.resident.dataset) for row in rows]
    return read_weights(local.recipe.algorithm, update.weight, len(rows))


def _sum_clients(value: Any, used: Sequence[int], *, stacked: bool) -> Any:
    """Add up a value over the clients of a stack that are used; numbers become floats."""
    if isinstance(value, Vector):
        if not value.stacked:
            return value * len(used) if stacked else value
        return Vector({n: t[list(used)].sum(dim=0) for n, t in value.items()})
    if isinstance(value, Keyed):
        return value.rows(used).merged()
    if isinstance(value, Tensor) and value.dim():
        total = value[list(used)].sum(dim=0) if stacked else value
        return total if total.dim() else float(total)
    return float(value) * len(used)


# -- what is kept ------------------------------------------------------------------------------


def _kept_by_each(
    local: LocalRound, kept: State, transforms: Sequence[tuple[State, ...]]
) -> Sequence[Kept[KeptState] | None]:
    """Return what each client keeps; None if that is nothing."""
    stack = None if any(transforms) else _stacked_states(local, kept)
    if stack is not None:
        stack = move(stack, "cpu")
        return [KeptRow(stack, index) for index in range(len(transforms))]
    states = _states(local, kept, transforms)
    return [None if state is None else Kept(state) for state in states]


def _stacked_states(local: LocalRound, kept: State) -> StackedStates | None:
    """Return what the clients of a stack keep, all the same entries; None if that is not known."""
    if not local.stacked or [*local.optimizers] != [MAIN] or _have_phases(local):
        return None
    ended = local.optimizers[MAIN].end_together(local.num_steps_of[MAIN])
    if ended is None:
        return None
    _require_kept(local, kept)
    personal = local.personal.now if local.personal.values else None
    own = {key: leaf.clone() for key, leaf in kept.items()}
    parts = (*ended.state.regularizers, *ended.state.modules, own)
    if not any(parts) and personal is None:
        return None
    return replace(ended, state=replace(ended.state, algorithm=own, personal=personal))


def _have_phases(local: LocalRound) -> bool:
    """Return whether a client has kept something of a training that is not the main one."""
    states = local.states
    if isinstance(states, GivenStates) and (found := states.together()):
        return bool(found[1].state.phases)
    return any(state is not None and state.phases for state in states)


def _states(
    local: LocalRound,
    kept: State,
    transforms: Sequence[tuple[State, ...]],
) -> list[KeptState | None]:
    """Return what each client keeps: of optimizers, algorithm and transforms, and its weights."""
    num_clients = len(transforms)
    ended = {
        phase: optimizer.end(local.num_steps_of[phase])
        for phase, optimizer in local.optimizers.items()
    }
    algorithm = _kept_rows(local, kept, num_clients)
    personal = local.personal.rows(num_clients)
    own = ended.pop(MAIN, local.states)
    states = []
    for client, previous in enumerate(local.states):
        before = {} if previous is None else previous.phases
        phases = {**before, **{phase: states[client] for phase, states in ended.items()}}
        rest: dict[str, Any] = {
            "phases": {phase: state for phase, state in phases.items() if state is not None},
            "algorithm": algorithm[client],
            "personal": personal[client],
            "transforms": transforms[client],
        }
        is_empty = own[client] is None and not any(rest.values())
        states.append(None if is_empty else replace(own[client] or local.fresh(), **rest))
    return states


def _kept_rows(local: LocalRound, kept: State, num_clients: int) -> list[State]:
    """Return the algorithm's state of each client, in its own memory."""
    if not _require_kept(local, kept):
        return [{}] * num_clients
    if not local.stacked:
        return [kept]
    rows = unstack_state(kept, num_clients)
    return [{key: leaf.clone() for key, leaf in row.items()} for row in rows]


def _require_kept(local: LocalRound, kept: State) -> bool:
    """Check what the algorithm keeps; return whether that is anything."""
    if not kept and not local.recipe.algorithm.keeps_state:
        return False
    if kept.keys() != local.kept.keys():
        raise ConfigError(
            f"{_name(local)} keeps {sorted(kept)} of a client, but its init() returns "
            f"{sorted(local.kept)}; both must have the same entries"
        )
    if wrong := [key for key, leaf in kept.items() if not isinstance(leaf, Vector | Tensor)]:
        raise ConfigError(
            f"{_name(local)} keeps {wrong[0]!r}, which is "
            f"{type(kept[wrong[0]]).__name__}; it must be a Vector or a tensor"
        )
    return True


def _with_states(
    rows: Sequence[ClientRow], states: Sequence[Kept[KeptState] | None]
) -> list[ClientRow]:
    """Return the rows with what clients keep that are not dropped."""
    return [
        row if state is None or isinstance(row.retained, Dropped) else ClientRow(*row[:5], state)
        for row, state in zip(rows, states, strict=True)
    ]


def _refuse_or_drop(row: ClientRow, local: LocalRound, lost_by: str) -> ClientRow:
    """Return the row of a client whose update is not finite.

    Args:
        row: the client's.
        local: its round, or that of its stack.
        lost_by: the transforms, if it was finite before them; else "".

    Raises:
        NonFiniteUpdateError: if the scenario says to raise.
    """
    if local.recipe.work.on_nonfinite == "drop":
        return row._replace(retained=Dropped(NOT_FINITE))
    if lost_by:
        raise NonFiniteUpdateError(
            f"client {row.client}'s update of round {local.round} was finite before "
            f"client.transforms ({lost_by}), but has NaN or infinite values after them; put a clip "
            "before, or set client.on_nonfinite: drop"
        )
    raise NonFiniteUpdateError(
        f"client {row.client} sent an update with NaN or infinite values in round {local.round}, "
        "or keeps such; lower client.optimizer.lrate, clip its gradients, or set "
        "client.on_nonfinite: drop"
    )
