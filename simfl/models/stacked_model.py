"""StackedModel: C clients' copies of one model, trained in one computation.

Shapes: C clients of a stack, A those with steps left to do, a prefix of them, B examples of a
batch, ... a tensor's own axes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor

from simfl.errors import ConfigError
from simfl.models.dropout import dropout_layers, example_keys
from simfl.models.loss import is_batch_loss, needs_weights
from simfl.models.model import Batch, Inputs
from simfl.models.model_function import (
    ModelFunction,
    Objective,
    batch_loss,
    refuse_clipping,
    require_scalar,
    split_given,
)
from simfl.models.parameter_memory import with_own_memory
from simfl.models.per_example import weighted_mean
from simfl.models.stacked_layers import StackedChain, batch_by_hand
from simfl.models.torch_model import TorchModel
from simfl.vector import Vector

_Weights: TypeAlias = "dict[str, Tensor]"


def chain_of(model: TorchModel) -> StackedChain | None:
    """Return the model's chain of layers for a stack; None if it is batched by vmap."""
    return batch_by_hand(model.module) if model.precision == "float32" else None


class StackedModel:
    """The trainable weights of up to C clients, resident and updated in place.

    Clients do not influence each other: a row's numbers are those of the client trained alone, up
    to rounding. Chains of dense layers are batched by hand, all else by
    ``torch.func.vmap`` (https://docs.pytorch.org/docs/stable/func.html).

    Args:
        model: its module and loss are used; its own weights provide those that are not trained.
        max_clients: C; takes the memory of C models and their gradients.
    """

    def __init__(self, model: TorchModel, max_clients: int) -> None:
        self._model = model
        self._rows = {
            name: parameter.new_empty(max_clients, *parameter.shape)
            for name, parameter in model.trainable.items()
        }
        self._by_hand = chain_of(model)
        self._dropouts = dropout_layers(model.module)
        self._num_clients = max_clients
        self.narrow(max_clients)

    @property
    def draws(self) -> bool:
        """Whether a step depends on ``seed_step``."""
        return bool(self._dropouts)

    @property
    def num_active(self) -> int:
        """A, the number of clients of the next step."""
        return self._num_active

    @property
    def like(self) -> Vector:
        """The current trainable weights of the first client, not copied."""
        return Vector({name: rows[0] for name, rows in self._rows.items()})

    def begin(self, weights: Vector, num_clients: int) -> None:
        """Start the first ``num_clients`` rows from these weights."""
        self._num_clients = num_clients
        self.narrow(num_clients)
        if len(weights) > len(self._rows):  # weights that are not trained are in the model
            self._model.set_weights(weights)
        for name, rows in self._rows.items():
            rows[:num_clients].copy_(weights[name])

    def narrow(self, num_active: int) -> None:
        """Train only the first ``num_active`` clients from now on."""
        self._num_active = num_active
        self._active = {name: rows[:num_active] for name, rows in self._rows.items()}

    @property
    def live_weights(self) -> Vector:
        """The trainable weights of the A active clients, not copied: later steps change them."""
        return Vector(self._active, stacked=True)

    @contextmanager
    def at(self, weights: Vector) -> Iterator[None]:
        """Let the active clients have other weights [A, ...] for a while; they are not copied."""
        active, self._active = self._active, {name: weights[name] for name in self._rows}
        try:
            yield
        finally:
            self._active = active

    def seed_step(self, keys_A: Tensor, step: int) -> None:
        """Set the keys of the step's dropout; see ``Model.seed_step``."""
        self._model.seed_step(keys_A, step)

    def in_micro_batch(
        self, before: int, size: int, *, by_example: bool
    ) -> AbstractContextManager[None]:
        """Return the context for some of each client's examples of a step."""
        return self._model.in_micro_batch(before, size, by_example=by_example)

    def compute_loss_and_gradients(
        self,
        batch: Batch,
        max_norm: float | None = None,
        *,
        given: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, Vector]:
        """Return each client's loss, [A], detached, and its gradients, a stack.

        Args:
            batch: tensors of shape [A, B, ...]. A shorter batch is padded with its own examples,
                with weight 0; its other examples have weight B divided by their number.
            max_norm: as for ``Model.compute_loss_and_gradients``; only for a chain of dense layers
                of a model that ``clips_by_norms``.
            given: what a loss of a batch needs of the clients, as ``loss_given`` of
                ``compute_objective``.
        """
        loss, chain = self._model.loss, self._by_hand
        if is_batch_loss(loss):
            refuse_clipping(max_norm)
            if chain is None or needs_weights(loss) or not isinstance(batch.inputs, Tensor):
                return self.compute_objective(batch_loss, batch, loss_given=given)
        self._model.enter_training()
        if chain is not None and isinstance(batch.inputs, Tensor):
            losses_A, gradients = self._differentiate(chain, batch.inputs, batch, max_norm, given)
        else:
            assert not max_norm, "only chains that are batched by hand are clipped"
            losses_A, gradients = self._differentiate_mapped(batch)
        return losses_A, Vector({name: gradients[name] for name in self._rows}, stacked=True)

    def compute_objective(
        self,
        objective: Objective,
        batch: Batch,
        given: Sequence[Any] = (),
        *,
        loss_given: Mapping[str, Any] | None = None,
        max_norm: float | None = None,
    ) -> tuple[Tensor, Vector]:
        """Return each client's objective, [A], detached, and its gradients, a stack.

        Args:
            objective: of one client, as for ``TorchModel.compute_objective``.
            batch: as for ``compute_loss_and_gradients``.
            given: further arguments of the objective. Of a stacked Vector, and of a tensor whose
                first axis is the client, each client gets its own row; what comes after the first
                A rows is ignored. All else is the same for all clients.
            loss_given: what the model's own loss is given: see ``Loss.of_batch``.
            max_norm: refused.

        Raises:
            ConfigError: as there.
        """
        from torch.func import vmap

        def of_client(
            weights: _Weights, batch: Batch, keys: _Weights, own: Mapping[str, Any], *given: Any
        ) -> Tensor:
            function = ModelFunction(self._model, keys, own, is_mapped=True)
            return require_scalar(objective(function, weights, batch, *given))

        refuse_clipping(max_norm)
        self._model.enter_training()
        arguments, axes = split_given(
            (self._keys(), loss_given or {}, *given), num_active=self._num_active
        )
        in_dims = (0, _axes_of(batch), *axes)
        leaves = {name: rows.detach().requires_grad_() for name, rows in self._active.items()}
        losses_A = vmap(of_client, in_dims=in_dims, randomness="error")(
            leaves, Batch(*batch[:3]), *arguments
        )
        if not losses_A.requires_grad:
            raise ConfigError("the objective does not depend on the trained weights")
        # No client's loss depends on another's weights: the gradients of the sum are each client's.
        # Autograd takes fewer calls here than torch.func.grad within vmap.
        gradients = torch.autograd.grad(losses_A.sum(), list(leaves.values()), allow_unused=True)
        owned = with_own_memory(gradients, leaves.values())
        return losses_A.detach(), Vector(dict(zip(leaves, owned, strict=True)), stacked=True)

    def _keys(self) -> _Weights:
        """Return each client's keys for dropout, by the name of the layer's buffer: [A]."""
        return {f"{name}.key": layer.key for name, layer in self._dropouts.items()}

    def get_weights(self, trainable: bool = True) -> Vector:
        """Return a copy of the active clients' trainable weights, a stack."""
        assert trainable, "weights that are not trained are the same for all clients"
        return Vector({name: rows.clone() for name, rows in self._active.items()}, stacked=True)

    def apply_updates(self, updates: Vector) -> None:
        """Add the active clients' updates, in place."""
        self.apply_scaled_updates(updates, 1.0)

    def apply_scaled_updates(self, updates: Vector, scale: float | Tensor) -> None:
        """Add scale times the updates; the scale is one number, or [A], one per client."""
        if isinstance(scale, Tensor):
            updates, scale = updates * scale, 1.0
        values = [updates[name] for name in self._active]
        torch._foreach_add_(list(self._active.values()), values, alpha=scale)

    def compute_delta(self, start: Vector) -> Vector:
        """Return start minus the weights of all clients of ``begin``, a stack."""
        return Vector(
            {name: start[name] - rows[: self._num_clients] for name, rows in self._rows.items()},
            stacked=True,
        )

    def _differentiate(
        self,
        chain: StackedChain,
        inputs: Tensor,
        batch: Batch,
        max_norm: float | None,
        given: Mapping[str, Any] | None,
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        num_examples = batch.targets.shape[1]
        keys = example_keys(self._dropouts, num_examples) if max_norm else {}
        passes = chain.forward({**self._active, **keys}, inputs)
        outputs = passes[-1].outputs
        if is_batch_loss(self._model.loss):
            losses_A, outer = self._differentiate_batch_loss(outputs, batch, given or {})
            return losses_A, chain.backward(passes, outer)
        # No client's loss depends on another's weights, so the gradients of all clients' means are
        # those of the sum of all examples' shares in their own client's mean.
        share_AB = outputs.new_full(batch.targets.shape[:2], 1.0 / num_examples)
        if batch.sample_weights is not None:
            share_AB = share_AB * batch.sample_weights
        if max_norm:
            losses_AB, outer = self._differentiate_loss(outputs, batch.targets, None)
            gradients = chain.clipped_backward(passes, outer, max_norm=max_norm, share_CB=share_AB)
        else:
            losses_AB, outer = self._differentiate_loss(outputs, batch.targets, share_AB)
            gradients = chain.backward(passes, outer)
        if batch.sample_weights is not None:
            losses_AB = losses_AB * batch.sample_weights
        return losses_AB.mean(dim=1), gradients

    def _differentiate_loss(
        self, outputs: Tensor, targets: Tensor, share_AB: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the losses [A, B], and the outputs' gradient of the losses times the shares."""
        rows = outputs.flatten(0, 1).detach().requires_grad_()
        losses = self._model.loss(rows, targets.flatten(0, 1))
        shared = losses if share_AB is None else losses * share_AB.flatten()
        # A sum instead of grad_outputs, for which torch imports sympy: 0.25 s in each process.
        (gradient,) = torch.autograd.grad(shared.sum(), rows)
        return losses.detach().reshape(targets.shape[:2]), gradient.reshape(outputs.shape)

    def _differentiate_batch_loss(
        self, outputs: Tensor, batch: Batch, given: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Return the losses [A] of a loss of the outputs alone, and the outputs' gradient."""
        from torch.func import grad_and_value, vmap

        def of_client(outputs: Tensor, batch: Batch, own: Mapping[str, Any]) -> Tensor:
            return require_scalar(self._model.loss.of_outputs(outputs, batch, own))

        (own,), (axes,) = split_given((given,), self._num_active)
        in_dims = (0, _axes_of(batch), axes)
        differentiate = vmap(grad_and_value(of_client), in_dims=in_dims, randomness="error")
        outer, losses_A = differentiate(outputs.detach(), batch, own)
        return losses_A, outer

    def _differentiate_mapped(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        from torch.func import grad_and_value, vmap

        def loss_of_client(
            weights: _Weights, keys: _Weights, inputs: Inputs, targets: Tensor, by: Tensor | None
        ) -> Tensor:
            outputs = self._model.call(inputs, {**weights, **keys})
            return weighted_mean(self._model.loss(outputs, targets), by)

        in_dims = (0, 0, 0, 0, None if batch.sample_weights is None else 0)
        # A layer that draws from a generator would draw for the stack, not for each client.
        differentiate = vmap(grad_and_value(loss_of_client), in_dims=in_dims, randomness="error")
        gradients, losses_A = differentiate(self._active, self._keys(), *batch[:3])
        return losses_A, gradients


def _axes_of(batch: Batch) -> Any:
    """Return vmap's ``in_dims`` of a stack's batch."""
    return Batch(0, 0, None if batch.sample_weights is None else 0)  # type: ignore[arg-type]
