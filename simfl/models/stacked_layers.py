"""Layers for a stack of clients at once: one batched product instead of one per client.

Each is a function that returns its outputs and how gradients go back through it. Most of a small
model's step is bookkeeping, and this is a third less of it than autograd needs.

Shapes: C clients of a stack, B examples of a batch, F numbers in, G numbers out, ... other axes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn

from simfl.models.dropout import Dropout

__all__ = ["StackedChain", "batch_by_hand"]

_Weights: TypeAlias = "dict[str, Tensor]"
_RELU_BACKWARD: Final = torch.ops.aten.threshold_backward.default
_ELEMENTWISE: Final = frozenset(
    {nn.ReLU, nn.Tanh, nn.GELU, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.Softplus, nn.Identity}
)


class _Pass(NamedTuple):
    """What a layer has made of its inputs."""

    outputs: Tensor
    """[C, B, ...]"""
    to_inputs: Callable[[Tensor], Tensor]
    """The gradient of the outputs -> that of the inputs."""
    to_weights: Callable[[Tensor], _Weights] = lambda _: {}
    """The gradient of the outputs -> those of the layer's own weights that are trained."""


_Layer: TypeAlias = "Callable[[Mapping[str, Tensor], Tensor], _Pass]"
"""(weights [C, ...] by name, inputs [C, B, ...]) -> the pass."""


@dataclass(frozen=True)
class StackedChain:
    """A chain of layers for a stack of clients: the function, and its gradients.

    It is the same function as ``torch.func.vmap`` makes of the module.
    """

    layers: Sequence[_Layer]
    first: int
    """The index of the first layer with weights that are trained."""

    def forward(self, weights: Mapping[str, Tensor], inputs: Tensor) -> list[_Pass]:
        """Return every layer's pass; the outputs of the last one are the chain's.

        Args:
            weights: [C, ...] by name, those that are trained.
            inputs: [C, B, ...].
        """
        passes: list[_Pass] = []
        for layer in self.layers:
            passes.append(layer(weights, passes[-1].outputs if passes else inputs))
        return passes

    def backward(self, passes: Sequence[_Pass], outer: Tensor) -> _Weights:
        """Return the gradients of the weights.

        Args:
            passes: from ``forward``.
            outer: the gradient of the chain's outputs.
        """
        gradients: _Weights = {}
        for index in range(len(passes) - 1, self.first - 1, -1):
            for name, own in passes[index].to_weights(outer).items():
                # A layer may be in the chain twice.
                gradients[name] = gradients[name] + own if name in gradients else own
            if index > self.first:
                outer = passes[index].to_inputs(outer)
        return gradients


def batch_by_hand(module: nn.Module) -> StackedChain | None:
    """Return a module for a stack, if it is a chain of layers that are known here.

    Dense layers, ``Flatten``, element-wise activations and ``Dropout``.
    """
    layers = list(_chain(module))
    if not all(_is_known(layer) for layer in layers):
        return None
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    is_trained = [any(p.requires_grad for p in layer.parameters()) for layer in layers]
    return StackedChain([_stacked(layer, names) for layer in layers], is_trained.index(True))


def _chain(module: nn.Module) -> Iterator[nn.Module]:
    """Iterate over the layers of nested ``Sequential`` modules, in the order of their calls."""
    if type(module) is not nn.Sequential or _is_hooked(module):
        yield module
        return
    for layer in module:
        yield from _chain(layer)


def _is_known(layer: nn.Module) -> bool:
    # A subclass, a parametrised layer or one with hooks may do something else.
    if _is_hooked(layer):
        return False
    if type(layer) is nn.Flatten:
        return (layer.start_dim, layer.end_dim) == (1, -1)
    return type(layer) in (nn.Linear, Dropout) or type(layer) in _ELEMENTWISE


def _is_hooked(layer: nn.Module) -> bool:
    return any(vars(layer)[name] for name in ("_forward_hooks", "_forward_pre_hooks"))


def _stacked(layer: nn.Module, names: Mapping[int, str]) -> _Layer:
    if isinstance(layer, nn.Linear):
        return _linear(layer, names)
    if isinstance(layer, nn.Flatten):
        return _flatten
    if isinstance(layer, nn.ReLU):
        return _relu
    if isinstance(layer, Dropout):
        return _differentiated(lambda inputs: layer.drop(inputs, layer.key))
    return _differentiated(_out_of_place(layer))


def _linear(layer: nn.Linear, names: Mapping[int, str]) -> _Layer:
    """Return x W' + b for each client."""
    weight_name, bias_name = names[id(layer.weight)], names.get(id(layer.bias), "")

    def forward(weights: Mapping[str, Tensor], inputs: Tensor) -> _Pass:
        rows = _as_rows(inputs)
        # What is not trained is the same for all clients.
        weight = weights.get(weight_name, layer.weight).expand(len(rows), -1, -1)

        def to_inputs(outer: Tensor) -> Tensor:
            return _like(inputs, torch.bmm(_as_rows(outer), weight))

        def to_weights(outer: Tensor) -> _Weights:
            outer, gradients = _as_rows(outer), {}
            if weight_name in weights:
                gradients[weight_name] = torch.bmm(outer.mT, rows)
            if bias_name in weights:
                gradients[bias_name] = outer.sum(1)
            return gradients

        outputs = _product(rows, weight, weights.get(bias_name, layer.bias))
        return _Pass(_like(inputs, outputs), to_inputs, to_weights)

    return forward


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return torch.bmm(rows, weight.mT)
    return torch.baddbmm(bias.unsqueeze(-2), rows, weight.mT)


def _as_rows(values: Tensor) -> Tensor:
    """Return [C, B, F] for [C, B, ..., F]."""
    return values if values.dim() == 3 else values.flatten(1, -2)


def _like(inputs: Tensor, rows: Tensor) -> Tensor:
    """Return rows [C, B, G] with the axes between B and G that the inputs have."""
    return rows if inputs.dim() == 3 else rows.reshape(*inputs.shape[:-1], rows.shape[-1])


def _flatten(_: Mapping[str, Tensor], inputs: Tensor) -> _Pass:
    return _Pass(inputs.flatten(2), lambda outer: outer.reshape(inputs.shape))


def _relu(_: Mapping[str, Tensor], inputs: Tensor) -> _Pass:
    outputs = inputs.relu()
    return _Pass(outputs, lambda outer: _RELU_BACKWARD(outer, outputs, 0))


def _differentiated(function: Callable[[Tensor], Tensor]) -> _Layer:
    """Return a layer without weights, whose gradient autograd finds."""

    def forward(_: Mapping[str, Tensor], inputs: Tensor) -> _Pass:
        leaf = inputs.detach().requires_grad_()
        outputs = function(leaf)

        def to_inputs(outer: Tensor) -> Tensor:
            # A sum, as of the loss.
            return torch.autograd.grad((outputs * outer).sum(), leaf)[0]

        return _Pass(outputs.detach(), to_inputs)

    return forward


def _out_of_place(layer: nn.Module) -> nn.Module:
    """Return an activation that leaves its inputs alone; some are told not to."""
    if not getattr(layer, "inplace", False):
        return layer
    own: Any = copy.copy(layer)
    own.inplace = False
    return cast(nn.Module, own)
