"""Pipeline: an Optimizer's plug-ins in the order of a step; states go in and come out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeAlias, TypedDict

from simfl.optimizer.exchange import AuxExchange, has_aux
from simfl.optimizer.plugin import AuxVar, Context, OptiModule, Regularizer, State
from simfl.optimizer.schedule import Rates
from simfl.optimizer.state import fill_state, unstack_state
from simfl.states import KeptState, OptimizerState
from simfl.vector import Scalar, Vector

PlugIn: TypeAlias = "OptiModule | Regularizer"
States: TypeAlias = "tuple[State, ...]"
"""The state of each plug-in, in the order of a step."""


class SteppedModel(Protocol):
    """What a step needs of a model: one client's, or that of a stack.

    One that also has ``apply_scaled_updates(updates, scale)``, which adds scale times the updates,
    is updated in one pass over its weights. It may have ``take_scaled_updates``, too, which does
    the same and may keep the memory of the updates.
    """

    def get_weights(self, trainable: bool) -> Vector:
        """Return a copy of the weights."""

    def apply_updates(self, updates: Vector) -> None:
        """Add the updates to the trainable weights."""


class StatesByKind(TypedDict):
    """States as the fields of an OptimizerState or a KeptState."""

    regularizers: States
    modules: States


class Pipeline:
    """Regularizers, then modules, each in list order; stateless itself.

    Args:
        regularizers: given the weights before the step.
        modules: given what the plug-ins before them return.
        personal: the names of weights that the other side does not have. Modules with auxiliary
            variables are not given their gradients, which stay as they are.

    Raises:
        ConfigError: if two modules have one aux name.
    """

    def __init__(
        self,
        regularizers: Sequence[Regularizer] = (),
        modules: Sequence[OptiModule] = (),
        *,
        personal: Collection[str] = (),
    ) -> None:
        self.plugins: tuple[PlugIn, ...] = (*regularizers, *modules)
        self.personal = frozenset(personal)
        self.exchange = AuxExchange(modules)
        self._num_regularizers = len(regularizers)

    # -- states ----------------------------------------------------------------------------

    def states_of(self, value: OptimizerState | KeptState) -> States:
        """Return the states of plug-ins that a value holds.

        Raises:
            KeyError: unless there is one for each plug-in.
        """
        num = self._num_regularizers
        _require_count(value.modules, len(self.plugins) - num, place="modules")
        _require_count(value.regularizers, num, place="regularizers")
        return (*value.regularizers, *value.modules)

    def by_kind(self, states: States) -> StatesByKind:
        """Return the states as the fields of an OptimizerState or a KeptState."""
        num = self._num_regularizers
        return {"regularizers": states[:num], "modules": states[num:]}

    def empty(self) -> States:
        """Return the states before anything has happened."""
        return tuple({} for _ in self.plugins)

    def refit(self, states: States, former: Pipeline) -> States:
        """Return the states of another pipeline for this one: plug-ins of both keep theirs."""
        left = list(zip(former.plugins, states, strict=True))
        fitted = []
        for plugin in self.plugins:
            index = next((n for n, (known, _) in enumerate(left) if known is plugin), None)
            fitted.append({} if index is None else left.pop(index)[1])
        return tuple(fitted)

    def fill(self, states: States, like: Vector) -> States:
        """Return the states with what they still lack filled in; see ``fill_state``."""
        pairs = zip(self.plugins, states, strict=True)
        return tuple(self._fill(plugin, state, like) for plugin, state in pairs)

    def start_round(self, states: States) -> States:
        """Return the states as they are when a round begins."""
        pairs = zip(self.plugins, states, strict=True)
        return tuple(plugin.start_round(state) for plugin, state in pairs)

    def process_aux_var(self, states: States, aux: Mapping[str, AuxVar]) -> States:
        """Return the states after each module has been handed its variables."""
        num = self._num_regularizers
        return (*states[:num], *self.exchange.process(states[num:], aux))

    def collect_aux_var(self, states: States) -> dict[str, AuxVar]:
        """Return what the modules share, by aux name."""
        return self.exchange.collect(states[self._num_regularizers :])

    @property
    def keeps_nothing(self) -> bool:
        """Whether clients keep no state of any plug-in until their next round."""
        return all(map(keeps_nothing, self.plugins))

    # -- a step ----------------------------------------------------------------------------

    def run(
        self, gradients: Vector, weights: Vector | None, states: States, context: Context
    ) -> tuple[Vector, States]:
        """Return the gradients after all plug-ins, and the new states.

        Args:
            gradients: of this step; one client's or a stack.
            weights: the trainable weights before the step; None only without regularizers.
            states: filled in.
            context: where the step takes place; ``index`` is set here.
        """
        new = []
        num = self._num_regularizers
        for place, (plugin, state) in enumerate(zip(self.plugins, states, strict=True)):
            owns = context.owns_gradients and place == 0  # others' may be in a state, too
            index = place if place < num else place - num
            here = replace(context, index=index, owns_gradients=owns)
            if isinstance(plugin, Regularizer):
                assert weights is not None, "regularizers need the weights"
                gradients, state = plugin.update(gradients, weights, state, here)
            else:
                gradients, state = self._update(plugin, gradients, state, here)
            new.append(state)
        return gradients, tuple(new)

    @property
    def takes_mean(self) -> bool:
        """Whether the last plug-in has ``end_steps``, of the class that has its ``update``."""
        if len(self.plugins) == self._num_regularizers:
            return False
        classes = type(self.plugins[-1]).__mro__
        owner = next(c for c in classes if vars(c).keys() & {"update", "end_steps"})
        return owner is not OptiModule and "end_steps" in vars(owner)

    def end_steps(self, states: States, mean: Vector) -> States:
        """Return the states after the last plug-in has been told the mean of what it returned."""
        last = self.plugins[-1]
        assert isinstance(last, OptiModule), "regularizers take no mean"
        return (*states[:-1], last.end_steps(states[-1], self._seen(last, mean)))

    def _fill(self, plugin: PlugIn, state: State, like: Vector) -> State:
        seen = self._seen(plugin, like)
        return fill_state(plugin, state, seen) if seen else state

    def _update(
        self, module: OptiModule, gradients: Vector, state: State, context: Context
    ) -> tuple[Vector, State]:
        seen = self._seen(module, gradients)
        if seen is gradients:
            return module.update(gradients, state, context)
        if not seen:
            return gradients, state
        updated, state = module.update(seen, state, context)
        return gradients | updated, state

    def _seen(self, plugin: PlugIn, gradients: Vector) -> Vector:
        """Return what a plug-in is given of the gradients."""
        if not self.personal or not has_aux(plugin):
            return gradients
        return gradients.without(self.personal)

    def read_weights(self, model: SteppedModel, rates: Rates) -> Vector | None:
        """Return a model's trainable weights if a regularizer or the decay needs them."""
        needed = rates.decays or self._num_regularizers > 0
        return model.get_weights(trainable=True) if needed else None


def apply_step(
    model: Any,
    values: Vector,
    weights: Vector | None,
    *,
    rates: Rates,
    like: Vector,
    is_last_use: bool = False,
) -> None:
    """Update a model by what ``Pipeline.run`` returned.

    A model with ``apply_scaled_updates`` is updated in one pass over its weights if there is no
    decay: w + (-lrate) u, rounded once, as ``torch.optim.SGD`` does it.

    Args:
        model: see ``SteppedModel``.
        values: what was returned.
        weights: those before the step, where there is a decay.
        rates: of this step.
        like: the gradients.
        is_last_use: whether nothing else uses the values, so that the model may keep their memory.
    """
    apply_scaled = getattr(model, "apply_scaled_updates", None)
    if is_last_use:
        apply_scaled = getattr(model, "take_scaled_updates", apply_scaled)
    if apply_scaled is None or rates.decays:
        model.apply_updates(scale_updates(values, weights, rates=rates, like=like))
    else:
        apply_scaled(values, -rates.lrate)


def scale_updates(values: Vector, weights: Vector | None, *, rates: Rates, like: Vector) -> Vector:
    """Return -lrate (values + w_decay weights), with the order and the dtypes of ``like``.

    Source: Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101, with the decay inside
    the brackets, as in ``torch.optim.AdamW``.
    """
    total = values
    if rates.decays:
        assert weights is not None, "weight decay needs the weights"
        total = values + weights * rates.w_decay
    lrate: Scalar = rates.lrate
    updates = total * -lrate
    if updates.names == like.names and all(
        updates[name].dtype == tensor.dtype for name, tensor in like.items()
    ):
        return updates
    cast = {name: updates[name].to(tensor.dtype) for name, tensor in like.items()}
    return Vector(cast, stacked=updates.stacked)


def keep_state(plugin: PlugIn, state: State) -> State:
    """Return what a client must keep of one plug-in's state until its next round."""
    return {} if keeps_nothing(plugin) else plugin.between_rounds(state)


def keep_rows(plugin: PlugIn, state: State, num_clients: int) -> list[State]:
    """Return what each of a stack's C clients must keep of one plug-in's state: [C], views.

    A third-party plug-in is called for each client: what it keeps may depend on the values.
    """
    if is_ours(plugin):
        return unstack_state(keep_state(plugin, state), num_clients)
    return [keep_state(plugin, row) for row in unstack_state(state, num_clients)]


def is_ours(plugin: PlugIn) -> bool:
    """Return whether a plug-in is simfl's own, which treats the rows of a stack as single ones."""
    return type(plugin).__module__.startswith("simfl.")


def keeps_nothing(plugin: PlugIn) -> bool:
    """Return whether this class itself declares ``keeps_nothing``; subclasses do not inherit it."""
    return bool(vars(type(plugin)).get("keeps_nothing"))


def _require_count(states: Sequence[State], count: int, *, place: str) -> None:
    if len(states) != count:
        raise KeyError(f"{place}: {len(states)} states for {count} plug-ins")
