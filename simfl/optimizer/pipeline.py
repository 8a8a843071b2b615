"""One step of an Optimizer, as functions of plug-ins, states and gradients; see ``Optimizer``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from simfl.optimizer.plugin import Context, OptiModule, Regularizer, State
from simfl.optimizer.state import fill_state, unstack_state
from simfl.vector import Scalar, Vector

PlugIns: TypeAlias = "Sequence[OptiModule | Regularizer]"


def fill_states(plugins: PlugIns, states: Sequence[State], like: Vector) -> tuple[State, ...]:
    """Return the states with what they still lack filled in; see ``fill_state``."""
    pairs = zip(plugins, states, strict=True)
    return tuple(fill_state(plugin, state, like) for plugin, state in pairs)


def start_rounds(plugins: PlugIns, states: Sequence[State]) -> tuple[State, ...]:
    """Return the states as they are when a round begins."""
    pairs = zip(plugins, states, strict=True)
    return tuple(plugin.start_round(state) for plugin, state in pairs)


def keep_states(plugins: PlugIns, states: Sequence[State]) -> tuple[State, ...]:
    """Return what a client must keep of the states until its next round."""
    pairs = zip(plugins, states, strict=True)
    return tuple(keep_state(plugin, state) for plugin, state in pairs)


def keep_state(plugin: OptiModule | Regularizer, state: State) -> State:
    """Return what a client must keep of one plug-in's state until its next round."""
    return {} if keeps_nothing(plugin) else plugin.between_rounds(state)


def keep_rows(plugin: OptiModule | Regularizer, state: State, num_clients: int) -> list[State]:
    """Return what each of a stack's C clients must keep of one plug-in's state: [C], views.

    A third-party plug-in is called for each client: what it keeps may depend on the values.
    """
    if type(plugin).__module__.startswith("simfl."):
        return unstack_state(keep_state(plugin, state), num_clients)
    return [keep_state(plugin, row) for row in unstack_state(state, num_clients)]


def keeps_nothing(plugin: OptiModule | Regularizer) -> bool:
    """Say whether this class itself declares ``keeps_nothing``; subclasses do not inherit it."""
    return bool(vars(type(plugin)).get("keeps_nothing"))


def run_regularizers(
    regularizers: Sequence[Regularizer],
    gradients: Vector,
    weights: Vector | None,
    states: Sequence[State],
    context: Context,
) -> tuple[Vector, tuple[State, ...]]:
    """Return the gradients after all regularizers, and the new states.

    Args:
        regularizers: in order.
        gradients: of this step; one client's or a stack.
        weights: the trainable weights before the step; None only if there are no regularizers.
        states: filled in, one for each regularizer.
        context: where the step takes place; ``index`` is set here.
    """
    new = []
    for index, (regularizer, state) in enumerate(zip(regularizers, states, strict=True)):
        assert weights is not None, "regularizers need the weights"
        here = replace(context, index=index)
        gradients, state = regularizer.update(gradients, weights, state, here)
        new.append(state)
    return gradients, tuple(new)


def run_modules(
    modules: Sequence[OptiModule], gradients: Vector, states: Sequence[State], context: Context
) -> tuple[Vector, tuple[State, ...]]:
    """Return the gradients after all modules, and the new states; as ``run_regularizers``."""
    new = []
    for index, (module, state) in enumerate(zip(modules, states, strict=True)):
        gradients, state = module.update(gradients, state, replace(context, index=index))
        new.append(state)
    return gradients, tuple(new)


def scale_updates(
    values: Vector, weights: Vector | None, *, lrate: Scalar, w_decay: Scalar, like: Vector
) -> Vector:
    """Return -lrate (values + w_decay weights), with the order and the dtypes of ``like``.

    Without weights there is no decay.

    Source: Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101, with the decay inside
    the brackets, as in ``torch.optim.AdamW``.
    """
    total = values if weights is None else values + weights * w_decay
    updates = total * -lrate
    if updates.names == like.names and all(
        updates[name].dtype == tensor.dtype for name, tensor in like.items()
    ):
        return updates
    cast = {name: updates[name].to(tensor.dtype) for name, tensor in like.items()}
    return Vector(cast, stacked=updates.stacked)
