"""A client's model as a function of its weights, for objectives, losses and sums over examples.

Shapes: A clients of a stack, B examples of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from simfl.errors import ConfigError
from simfl.models.model import Batch, Inputs
from simfl.vector import Vector, rows_of

if TYPE_CHECKING:
    from simfl.models.torch_model import TorchModel

Weights: TypeAlias = "Mapping[str, Tensor] | Vector"
"""Tensors by name."""

Objective: TypeAlias = Callable[..., Tensor]
"""(ModelFunction, weights by name, Batch of B examples, *given) -> the loss of a client, 0-d."""


@dataclass(frozen=True)
class ModelFunction:
    """The model of one client; it works within ``torch.func``'s ``grad`` and ``vmap``, too.

    Weights are given by name. Those that are not given are the module's own.
    """

    model: TorchModel
    constant: Mapping[str, Tensor] = field(default_factory=dict)
    """Further tensors that replace the module's own, such as a client's keys for dropout."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """What ``Loss.of_batch`` is given of the client: see there."""
    is_mapped: bool = False
    """Whether it is called within ``torch.func.vmap``."""

    def __call__(self, weights: Weights, inputs: Inputs) -> Any:
        """Return the module's outputs for B examples, in training mode."""
        own = self.model.trainable
        # Those that are not trained are buffers, which a layer in training mode changes in place.
        instead = {
            n: tensor if n in own else tensor.clone()
            for n, tensor in weights.items()
            if tensor is not own.get(n)
        }
        return self.model.call(inputs, {**self.constant, **instead})

    def predict(self, weights: Weights, inputs: Inputs) -> Any:
        """Return the module's outputs in evaluation mode, without gradients: those of a teacher."""
        with torch.no_grad(), self.model.evaluating():
            return self(weights, inputs)

    def gradients(
        self, function: Callable[[Mapping[str, Tensor]], Tensor], weights: Weights
    ) -> dict[str, Tensor]:
        """Return the gradients of a function of the weights, which are constants: not derived.

        Args:
            function: weights by name -> 0-d.
            weights: where; outside of vmap they must require gradients, as an objective's do.
        """
        own = dict(weights.items())
        if self.is_mapped:
            from torch.func import grad

            found: dict[str, Tensor] = grad(function)({n: w.detach() for n, w in own.items()})
            return found
        gradients = torch.autograd.grad(
            function(own), list(own.values()), allow_unused=True, materialize_grads=True
        )
        return dict(zip(own, gradients, strict=True))

    def with_own_buffers(self) -> ModelFunction:
        """Return this function with copies of the module's buffers, so that it leaves those."""
        model = self.model
        averaged = {*model.shared_names} - {*model.trainable}
        if not averaged:
            return self
        buffers = {n: b.clone() for n, b in model.module.named_buffers() if n in averaged}
        return replace(self, constant={**self.constant, **buffers})

    def features(self, weights: Weights, inputs: Inputs, layer: str) -> tuple[Any, Tensor]:
        """Return the module's outputs, and the input of a layer.

        Args:
            weights: by name.
            inputs: of B examples.
            layer: a submodule's name, such as that of the last layer, whose input is what is
                called an example's representation: [B, ...].

        Raises:
            ConfigError: if there is no such layer, or it is not called with a tensor.
        """
        seen: list[Any] = []

        def record(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            seen.extend(arguments[:1])

        hook = find_layer(self.model.module, layer).register_forward_pre_hook(record)
        try:
            outputs = self(weights, inputs)
        finally:
            hook.remove()
        if not seen or not isinstance(seen[-1], Tensor):
            raise ConfigError(f"layer {layer!r} is not called with a tensor; name another layer")
        return outputs, seen[-1]

    def per_example(self, weights: Weights, batch: Batch) -> Tensor:
        """Return the loss of each example: [B], not weighted."""
        return self.model.loss(self(weights, batch.inputs), batch.targets)

    def loss(self, weights: Weights, batch: Batch) -> Tensor:
        """Return what a step of the scenario's loss minimises: 0-d, see ``Loss.of_batch``."""
        return self.model.loss.of_batch(self, weights, batch, self.given)

    def loss_of(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the same for outputs that have been computed: 0-d, see ``Loss.of_outputs``."""
        return self.model.loss.of_outputs(outputs, batch, self.given)


def batch_loss(model: ModelFunction, weights: Weights, batch: Batch) -> Tensor:
    """Return the scenario's loss of a batch: the objective of a step without another one."""
    return model.loss(weights, batch)


def find_layer(module: nn.Module, name: str) -> nn.Module:
    """Return a submodule.

    Raises:
        ConfigError: if there is none of this name; it says which there are.
    """
    layers: dict[str, nn.Module] = dict(module.named_modules())
    if not name or name not in layers:
        known = ", ".join(repr(layer) for layer in layers if layer)
        raise ConfigError(
            f"the model has no layer {name!r}; it has {known or 'none, being a single layer'}"
        )
    return layers[name]


def require_scalar(loss: Any) -> Tensor:
    """Return an objective's loss.

    Raises:
        ConfigError: unless it is a tensor without axes.
    """
    if not isinstance(loss, Tensor) or loss.dim():
        what = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ConfigError(f"an objective returned {what}; it must return one number, a 0-d tensor")
    return loss


def refuse_clipping(max_norm: float | None) -> None:
    """Raise an error if the gradients of examples are to be clipped.

    Raises:
        ConfigError: since an objective has no gradients of single examples.
    """
    if max_norm:
        raise ConfigError(
            "client.sclip clips each example's gradient, but this objective is one number for a "
            "whole batch; leave client.sclip out, or use a loss per example"
        )


def as_mappings(given: Any) -> Any:
    """Return what an objective is given, with dicts of tensors in place of Vectors."""
    if isinstance(given, Vector | Mapping):
        return {name: as_mappings(value) for name, value in given.items()}
    return given


def client_axes(given: Any) -> Any:
    """Return vmap's ``in_dims`` of what is given: 0 where there is a client axis, else None."""
    if isinstance(given, Vector):
        return dict.fromkeys(given.names, 0 if given.stacked else None)
    if isinstance(given, Mapping):
        return {name: client_axes(value) for name, value in given.items()}
    return 0 if isinstance(given, Tensor) and given.dim() else None


def split_given(given: Sequence[Any], num_active: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return (the arguments of a mapped objective, their ``in_dims``)."""
    rows = [rows_of(value, slice(num_active)) for value in given]
    return tuple(map(as_mappings, rows)), tuple(map(client_axes, rows))
