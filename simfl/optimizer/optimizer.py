"""Optimizer: from gradients to updates of the weights, by a pipeline of plug-ins."""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableSequence, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch

from simfl.optimizer.encoding import decode_optimizer_state, encode_optimizer_state
from simfl.optimizer.exchange import has_aux
from simfl.optimizer.pipeline import (
    Pipeline,
    States,
    SteppedModel,
    apply_step,
    scale_updates,
)
from simfl.optimizer.plugin import AuxVar, Context, OptiModule, Regularizer
from simfl.optimizer.schedule import Rate, Rates, build_rate, goes_by_steps, rate_at, rate_config
from simfl.optimizer.specs import ComponentList, Spec, component_config
from simfl.states import OptimizerState
from simfl.vector import Vector


class TrainableModel(SteppedModel, Protocol):
    """What an Optimizer needs of a model."""

    def compute_batch_gradients(self, batch: Any, max_norm: float | None = None) -> Vector:
        """Return the gradients of the trainable weights."""


class Optimizer:
    """Turns gradients into updates, on the client's side as on the server's.

    One step, w being the trainable weights before it::

        g = regularizer(g, w)                   each, in list order
        u = module(g)                           each, in list order
        updates = -lrate * (u + w_decay * w)    to be added to the weights

    Decay is decoupled, as in ``torch.optim.AdamW`` (https://arxiv.org/abs/1711.05101). All that
    changes is one value, ``export_state``; a call that raises an exception leaves it as it was. In
    a round, a ``LocalOptimizer`` trains clients with the same plug-ins.

    Args:
        lrate: the learning rate: a number, or a schedule as an instance, a name or a pair.
        w_decay: the weight decay, likewise.
        regularizers: each an instance, a name, or a ``(name, {hyper-parameters})`` pair.
        modules: likewise.

    Raises:
        UnknownNameError: (a KeyError) for a name that is not registered, with its place.
        KeyError: for a hyper-parameter that is unknown or missing.
        ConfigError: for a value that cannot be, or two modules with the same variables.

    >>> Optimizer(0.1, modules=["adam", ("l2-clipping", {"max_norm": 2.0})]).modules[1].max_norm
    2.0
    """

    def __init__(
        self,
        lrate: float | Spec,
        w_decay: float | Spec = 0.0,
        regularizers: Sequence[Spec] | None = None,
        modules: Sequence[Spec] | None = None,
    ) -> None:
        self.lrate: Rate = build_rate(lrate, place="lrate")
        self.w_decay: Rate = build_rate(w_decay, place="w_decay")
        self._regularizers = ComponentList(
            Regularizer,
            regularizers,
            place="regularizers",
            refit=self._refit_regularizers,
        )
        self._modules = ComponentList(
            OptiModule,
            modules,
            place="modules",
            refit=self._refit_modules,
        )
        self.pipeline = Pipeline(self.regularizers, self.modules)
        """The plug-ins in the order of a step; a new one whenever they change."""
        self._filled_on: torch.device | None = None
        self._state = OptimizerState(**self.pipeline.by_kind(self.pipeline.empty()))

    @property
    def regularizers(self) -> MutableSequence[Regularizer]:
        """The regularizers, in order: a list that can be changed and also accepts specs.

        Regularizers that stay in it keep their states; new ones start without.
        """
        return self._regularizers

    @regularizers.setter
    def regularizers(self, specs: Sequence[Spec]) -> None:
        self._regularizers[:] = specs

    @property
    def modules(self) -> MutableSequence[OptiModule]:
        """The modules, in order: a list like ``regularizers``."""
        return self._modules

    @modules.setter
    def modules(self, specs: Sequence[Spec]) -> None:
        self._modules[:] = specs

    # -- steps -----------------------------------------------------------------------------

    @torch.no_grad()
    def compute_updates_from_gradients(self, model: SteppedModel, gradients: Vector) -> Vector:
        """Return the updates of one step, to be added to the trainable weights.

        Args:
            model: gives the weights, which are read only if a regularizer or decay needs them.
            gradients: computed or received (pseudo-)gradients; they are left as they are.

        Returns:
            Updates with the names, order, shapes and dtypes of the gradients.

        Raises:
            VectorError: if names differ from those of the weights or of previous gradients.
        """
        rates = self._rates()
        values, weights, state = self._run_plugins(model, gradients, rates)
        updates = scale_updates(values, weights, rates=rates, like=gradients)
        self._state = state
        return updates

    @torch.no_grad()
    def apply_gradients(self, model: SteppedModel, gradients: Vector) -> None:
        """Run one step with these gradients, and update the model; see ``apply_step``."""
        rates = self._rates()
        values, weights, state = self._run_plugins(model, gradients, rates)
        apply_step(model, values, weights, rates=rates, like=gradients)
        self._state = state

    def run_train_step(self, model: TrainableModel, batch: Any, sclip: float | None = None) -> None:
        """Run one step on a batch, and update the model.

        Args:
            model: to train.
            batch: examples, as the model takes them.
            sclip: the L2 norm that each example's gradient is scaled to at most; None or 0: off.
                They are averaged over this batch, so noise that hides single examples requires
                batches of equal size (in a run, ``LocalWork`` takes care of that).
        """
        self.apply_gradients(model, model.compute_batch_gradients(batch, max_norm=sclip))

    # -- rounds ----------------------------------------------------------------------------

    def start_round(self) -> None:
        """Tell plug-ins and schedules that a round begins."""
        self._set(self.pipeline.start_round(self._states), round=self.round + 1, step=0)

    def collect_aux_var(self) -> dict[str, AuxVar]:
        """Return what the modules share, by aux name; it changes nothing.

        Modules with nothing to share are not in it. Values are numbers and Vectors that add up.
        """
        return self.pipeline.collect_aux_var(self._states)

    def process_aux_var(self, aux_var: Mapping[str, AuxVar]) -> None:
        """Hand each module what the other side has shared.

        Raises:
            KeyError: where a key has no module, or a module lacks an entry; nothing is changed.
        """
        self._set(self.pipeline.process_aux_var(self._states, aux_var))

    # -- config and state --------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Return what it was built with, as JSON values."""
        return {
            "lrate": rate_config(self.lrate),
            "w_decay": rate_config(self.w_decay),
            "regularizers": [component_config(plugin) for plugin in self.regularizers],
            "modules": [component_config(plugin) for plugin in self.modules],
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Optimizer:
        """Build from what ``get_config`` returns; all entries but ``lrate`` are optional.

        Raises:
            KeyError: naming the entries that are missing or unused.
            ConfigError: as when it is built.
        """
        known = ["lrate", "w_decay", "regularizers", "modules"]
        if unused := [key for key in config if key not in known]:
            raise KeyError(f"optimizer: unused config entries {unused}; known are {known}")
        if "lrate" not in config:
            raise KeyError("optimizer: missing config entries ['lrate']")
        return cls(**config)

    def get_state(self) -> dict[str, Any]:
        """Return all that it remembers, as JSON values, bit for bit."""
        return encode_optimizer_state(
            self._state, modules=self.modules, regularizers=self.regularizers
        )

    def set_state(self, states: Mapping[str, Any]) -> None:
        """Take over the states that ``get_state`` returned.

        Raises:
            KeyError: where states and plug-ins don't match. All of it is checked before anything
                is set, so the previous states stay.
        """
        state = decode_optimizer_state(states, modules=self.modules, regularizers=self.regularizers)
        self.import_state(state)

    def export_state(self) -> OptimizerState:
        """Return all that it remembers, as a value that later steps leave alone."""
        return self._state

    def import_state(self, state: OptimizerState) -> None:
        """Take over an exported state.

        Raises:
            KeyError: if it has not one state for each plug-in; nothing is changed.
        """
        self.pipeline.states_of(state)
        self._state, self._filled_on = state, None

    def for_population(self, num_clients: int) -> Optimizer:
        """Return an Optimizer for a run with this population, without a state."""
        modules = [module.for_population(num_clients) for module in self.modules]
        return Optimizer(self.lrate, self.w_decay, [*self.regularizers], modules)

    def with_personal(self, names: Collection[str]) -> Optimizer:
        """Return an Optimizer for clients that keep some weights for themselves, without a state.

        Args:
            names: of these weights, which the server does not have; see ``Pipeline``.
        """
        optimizer = Optimizer(self.lrate, self.w_decay, [*self.regularizers], [*self.modules])
        plugins = optimizer.regularizers, optimizer.modules
        optimizer.pipeline = Pipeline(*plugins, personal=names)
        return optimizer

    def without_exchange(self, *, seed: int) -> Optimizer:
        """Return one without the modules that exchange auxiliary variables, without a state."""
        modules = [module for module in self.modules if not has_aux(module)]
        other = Optimizer(self.lrate, self.w_decay, [*self.regularizers], modules)
        other.seed = seed
        return other

    # -- the engine's side -------------------------------------------------------------------

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self._state.seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self._set(seed=seed)

    @property
    def client(self) -> int:
        """The id of the client it works for; the server's is -1."""
        return self._state.client

    @client.setter
    def client(self, client: int) -> None:
        self._set(client=client)

    @property
    def round(self) -> int:
        """Which round this is, from 1; 0 before the first ``start_round``."""
        return self._state.round

    @property
    def step(self) -> int:
        """How many steps the round has had."""
        return self._state.step

    @property
    def num_steps(self) -> int:
        """How many steps there have been in all rounds."""
        return self._state.num_steps

    @property
    def aux_names(self) -> frozenset[str]:
        """The names of the auxiliary variables that its modules send or take."""
        return self.pipeline.exchange.names

    def merge_aux(
        self, left: Mapping[str, AuxVar], right: Mapping[str, AuxVar]
    ) -> dict[str, AuxVar]:
        """Merge what two sets of clients share; what only one of them shares stays as it is.

        It may reuse the memory of the left one. KeyError: no module has a name that both have.
        """
        return self.pipeline.exchange.merge(left, right)

    @property
    def keeps_state(self) -> bool:
        """Whether a client may have anything to keep from a round to its next one."""
        return goes_by_steps(self.lrate, self.w_decay) or not self.pipeline.keeps_nothing

    @property
    def accepts_read_only(self) -> bool:
        """Whether kept states and auxiliary variables may be ``read_only`` Vectors."""
        return all(plugin.accepts_read_only for plugin in self.pipeline.plugins)

    # -- inside ----------------------------------------------------------------------------

    @property
    def _states(self) -> States:
        return self.pipeline.states_of(self._state)

    def _run_plugins(
        self, model: SteppedModel, gradients: Vector, rates: Rates
    ) -> tuple[Vector, Vector | None, OptimizerState]:
        """Return the result of all plug-ins, the weights if they were read, and the new state."""
        device = gradients.tensors[0].device
        if self._filled_on != device:
            self._set(self.pipeline.fill(self._states, gradients))
            self._filled_on = device
        weights = self.pipeline.read_weights(model, rates)
        at = self._state
        context = Context(at.seed, (at.client,), at.round, at.step + 1)
        values, states = self.pipeline.run(gradients, weights, self._states, context)
        new = replace(at, step=at.step + 1, num_steps=at.num_steps + 1)
        return values, weights, replace(new, **self.pipeline.by_kind(states))

    def _refit_regularizers(self, plugins: Sequence[Regularizer]) -> None:
        self._refit(Pipeline(plugins, self.modules, personal=self.pipeline.personal))

    def _refit_modules(self, plugins: Sequence[OptiModule]) -> None:
        self._refit(Pipeline(self.regularizers, plugins, personal=self.pipeline.personal))

    def _refit(self, pipeline: Pipeline) -> None:
        states = pipeline.refit(self._states, self.pipeline)
        self.pipeline = pipeline
        self._set(states)

    def _set(self, states: States | None = None, **changes: Any) -> None:
        """Change the state; the next step fills in what it lacks."""
        by_kind = self.pipeline.by_kind(self._states if states is None else states)
        self._state = replace(self._state, **by_kind, **changes)
        self._filled_on = None

    def _rates(self) -> Rates:
        at = {"round": self._state.round, "num_steps": self._state.num_steps}
        return Rates(rate_at(self.lrate, **at), rate_at(self.w_decay, **at))
