"""Optimizer: from gradients to updates of the weights, by a pipeline of plug-ins."""

from __future__ import annotations

from collections.abc import Mapping, MutableSequence, Sequence
from dataclasses import replace
from typing import Any

import torch

from simfl.optimizer.encoding import decode_optimizer_state, encode_optimizer_state
from simfl.optimizer.exchange import AuxExchange
from simfl.optimizer.pipeline import (
    fill_states,
    keep_states,
    keeps_nothing,
    run_modules,
    run_regularizers,
    scale_updates,
    start_rounds,
)
from simfl.optimizer.plugin import AuxVar, Context, OptiModule, Regularizer
from simfl.optimizer.schedule import Rate, build_rate, goes_by_steps, rate_at, rate_config
from simfl.optimizer.specs import ComponentList, Spec, component_config
from simfl.optimizer.state import empty_states, refit_states, require_states
from simfl.optimizer.trainable import TrainableModel
from simfl.states import KeptState, OptimizerState
from simfl.vector import Vector


class Optimizer:
    """Turns gradients into updates, on the client's side as on the server's.

    One step, w being the trainable weights before it::

        g = regularizer(g, w)                   each, in list order
        u = module(g)                           each, in list order
        updates = -lrate * (u + w_decay * w)    to be added to the weights

    Decay is decoupled, as in ``torch.optim.AdamW`` (https://arxiv.org/abs/1711.05101). All that
    changes is one value, ``export_state``; a call that raises leaves it as it was.

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
            Regularizer, regularizers, place="regularizers", refit=self._refit_regularizers
        )
        self._modules = ComponentList(
            OptiModule, modules, place="modules", refit=self._refit_modules
        )
        self._exchange = AuxExchange(self.modules)
        self._filled_on: torch.device | None = None
        self._is_on_loan = self._owns_state = False
        self._state = self._blank = OptimizerState(
            modules=empty_states(self.modules), regularizers=empty_states(self.regularizers)
        )

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
    def compute_updates_from_gradients(self, model: TrainableModel, gradients: Vector) -> Vector:
        """Return the updates of one step, to be added to the trainable weights.

        Args:
            model: gives the weights, which are read only if a regularizer or decay needs them.
            gradients: computed or received (pseudo-)gradients; they are left as they are.

        Returns:
            Updates with the names, order, shapes and dtypes of the gradients.

        Raises:
            VectorError: if names differ from those of the weights or of former gradients.
        """
        rates = self._rates()
        values, weights, state = self._run_plugins(model, gradients, decays=bool(rates["w_decay"]))
        decaying = weights if rates["w_decay"] else None
        updates = scale_updates(values, decaying, like=gradients, **rates)
        self._state = state
        return updates

    @torch.no_grad()
    def apply_gradients(self, model: TrainableModel, gradients: Vector) -> None:
        """Run one step with these gradients, and update the model.

        A model with ``apply_scaled_updates`` is updated in one pass over its weights where there
        is no decay: w + (-lrate) u, rounded once, as ``torch.optim.SGD`` does it.
        """
        rates = self._rates()
        apply_scaled = getattr(model, "apply_scaled_updates", None)
        if apply_scaled is None or rates["w_decay"]:
            model.apply_updates(self.compute_updates_from_gradients(model, gradients))
            return
        values, _, self._state = self._run_plugins(model, gradients, decays=False)
        apply_scaled(values, -rates["lrate"])

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
        modules = start_rounds(self.modules, self._state.modules)
        regularizers = start_rounds(self.regularizers, self._state.regularizers)
        self._set(round=self.round + 1, step=0, modules=modules, regularizers=regularizers)

    def collect_aux_var(self) -> dict[str, AuxVar]:
        """Return what the modules share, by aux name; it changes nothing.

        Modules with nothing to share are left out. Values are numbers and Vectors that add up.
        """
        return self._exchange.collect(self.export_state().modules)

    def process_aux_var(self, aux_var: Mapping[str, AuxVar]) -> None:
        """Hand each module what the other side has shared.

        Raises:
            KeyError: where a key has no module, or a module lacks an entry; nothing is changed.
        """
        self._set(modules=self._exchange.process(self._state.modules, aux_var))

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
        """Build from what ``get_config`` returns; all but ``lrate`` may be left out.

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
        """Become what the Optimizer was that the states were got from.

        Raises:
            KeyError: where states and plug-ins don't match. All of it is checked before anything
                is set, so the former states stay.
        """
        state = decode_optimizer_state(states, modules=self.modules, regularizers=self.regularizers)
        self.import_state(state)

    def export_state(self) -> OptimizerState:
        """Return all that it remembers, as a value that later steps leave alone."""
        self._owns_state = False
        return self._state

    def import_state(self, state: OptimizerState) -> None:
        """Take over an exported state.

        Raises:
            KeyError: if it has not one state for each plug-in; nothing is changed.
        """
        require_states(state.modules, self.modules, place="modules")
        require_states(state.regularizers, self.regularizers, place="regularizers")
        self._filled_on = None
        self._is_on_loan = self._owns_state = False
        self._state = state

    def for_population(self, num_clients: int) -> Optimizer:
        """Return an Optimizer for a run with this population, without a state."""
        modules = [module.for_population(num_clients) for module in self.modules]
        return Optimizer(self.lrate, self.w_decay, [*self.regularizers], modules)

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
        return self._exchange.names

    def merge_aux(
        self, left: Mapping[str, AuxVar], right: Mapping[str, AuxVar]
    ) -> dict[str, AuxVar]:
        """Merge what two sets of clients share; what one only shares stays as it is.

        It may reuse the memory of the left one. KeyError: no module has a name that both have.
        """
        return self._exchange.merge(left, right)

    @property
    def keeps_state(self) -> bool:
        """Whether a client may have anything to keep from a round to its next: ``end_client``."""
        by_steps = goes_by_steps(self.lrate, self.w_decay)
        plugins: list[OptiModule | Regularizer] = [*self.regularizers, *self.modules]
        return by_steps or not all(map(keeps_nothing, plugins))

    @property
    def accepts_read_only(self) -> bool:
        """Whether kept states and auxiliary variables may be ``read_only`` Vectors."""
        return all(plugin.accepts_read_only for plugin in (*self.regularizers, *self.modules))

    def begin_client(self, *, client: int, round: int, kept: KeptState | None) -> None:
        """Become the optimizer of a client whose next round is about to begin.

        Until ``end_client`` steps may overwrite what former steps of the round have left, so that
        one that raises ends the client's round.

        Args:
            client: the client's id.
            round: the run's round, from 1, that the next ``start_round`` begins.
            kept: what ``end_client`` returned after the client's last round; None before its
                first, or if that was None.

        Raises:
            KeyError: if it has not one state for each plug-in; nothing is changed.
        """
        begun = replace(self._blank, seed=self.seed, client=client, round=round - 1)
        self.import_state(replace(begun, **vars(kept)) if kept else begun)
        self._is_on_loan = True

    def end_client(self) -> KeptState | None:
        """Return what the client must keep until its next round; None if that is nothing."""
        self._is_on_loan = False
        state = self.export_state()
        modules = keep_states(self.modules, state.modules)
        regularizers = keep_states(self.regularizers, state.regularizers)
        num_steps = state.num_steps if goes_by_steps(self.lrate, self.w_decay) else 0
        kept = KeptState(num_steps, modules, regularizers)
        return kept if kept.num_steps or any(modules) or any(regularizers) else None

    # -- inside ----------------------------------------------------------------------------

    def _run_plugins(
        self, model: TrainableModel, gradients: Vector, *, decays: bool
    ) -> tuple[Vector, Vector | None, OptimizerState]:
        """Return what the pipeline gives out, the weights if they were read, and the new state."""
        state = self._filled(gradients)
        needs_weights = decays or bool(self.regularizers)
        weights = model.get_weights(trainable=True) if needs_weights else None
        state = replace(state, step=state.step + 1, num_steps=state.num_steps + 1)
        if not self.regularizers and not self.modules:
            return gradients, weights, state
        context = Context(
            state.seed, (state.client,), state.round, state.step, owns_state=self._owns_state
        )
        values, regularizers = run_regularizers(
            self.regularizers, gradients, weights, state.regularizers, context
        )
        values, modules = run_modules(self.modules, values, state.modules, context)
        self._owns_state = self._is_on_loan
        return values, weights, replace(state, modules=modules, regularizers=regularizers)

    def _refit_regularizers(self, plugins: Sequence[Regularizer]) -> None:
        self._blank = replace(self._blank, regularizers=empty_states(plugins))
        former = self._state.regularizers
        self._set(regularizers=refit_states(former, self.regularizers, plugins))

    def _refit_modules(self, plugins: Sequence[OptiModule]) -> None:
        self._exchange = AuxExchange(plugins)
        self._blank = replace(self._blank, modules=empty_states(plugins))
        self._set(modules=refit_states(self._state.modules, self.modules, plugins))

    def _set(self, **changes: Any) -> None:
        """Change the state; what it lacks is filled in at the next step."""
        self._filled_on = None
        self._owns_state = False
        self._state = replace(self._state, **changes)

    def _filled(self, gradients: Vector) -> OptimizerState:
        device = gradients.tensors[0].device
        if self._filled_on != device:
            modules = fill_states(self.modules, self._state.modules, gradients)
            regularizers = fill_states(self.regularizers, self._state.regularizers, gradients)
            self._set(modules=modules, regularizers=regularizers)
            self._filled_on = device
        return self._state

    def _rates(self) -> dict[str, float]:
        at = {"round": self._state.round, "num_steps": self._state.num_steps}
        return {"lrate": rate_at(self.lrate, **at), "w_decay": rate_at(self.w_decay, **at)}
