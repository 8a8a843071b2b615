"""Layers for a stack of clients at once: one batched product instead of one per client.

Each is a function that returns its outputs and the functions of its backward pass. Most of a small
model's step is bookkeeping, of which this needs a third less than autograd.

Shapes: C clients of a stack, B examples of a batch, F inputs, G outputs, ... other axes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn

from simfl.models.clipping import clip_factors
from simfl.models.dropout import Dropout, dropout_layers
from simfl.models.example_norms import square_norms
from simfl.models.layers import alteration

_Weights: TypeAlias = "dict[str, Tensor]"
_RELU_BACKWARD: Final = torch.ops.aten.threshold_backward.default
_ELEMENTWISE: Final = frozenset(
    {nn.ReLU, nn.Tanh, nn.GELU, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.Softplus, nn.Identity}
)


class _Pass(NamedTuple):
    """A layer's outputs, and its backward pass."""

    outputs: Tensor
    """[C, B, ...]"""
    to_inputs: Callable[[Tensor], Tensor]
    """The gradient of the outputs -> that of the inputs."""
    to_weights: Callable[[Tensor], _Weights] = lambda _: {}
    """The gradient of the outputs -> those of the layer's trained weights."""
    to_square_norms: Callable[[Tensor], Tensor] | None = None
    """The gradient of the outputs -> the squared norm of each example's gradient of the layer's
    weights, [C, B]; None for a layer without trained weights."""


_Layer: TypeAlias = "Callable[[Mapping[str, Tensor], Tensor], _Pass]"
"""(weights [C, ...] by name, inputs [C, B, ...]) -> the pass."""


@dataclass(frozen=True)
class StackedChain:
    """A chain of layers for a stack of clients, with its gradients: ``torch.func.vmap`` by hand."""

    layers: Sequence[_Layer]
    first: int
    """The index of the first layer with trained weights."""

    def forward(self, weights: Mapping[str, Tensor], inputs: Tensor) -> list[_Pass]:
        """Return every layer's pass; the outputs of the last one are the chain's.

        Args:
            weights: [C, ...] by name: the trained ones, and keys for dropout by example.
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
        return _weight_gradients(passes, self._outers(passes, outer))

    def clipped_backward(
        self, passes: Sequence[_Pass], outer: Tensor, *, max_norm: float, share_CB: Tensor
    ) -> _Weights:
        """Return the sums over each client's examples of their clipped gradients.

        The chain must not hold a layer twice.

        Args:
            passes: from ``forward``.
            outer: the gradient of each example's own loss with respect to the chain's outputs.
            max_norm: the L2 norm that an example's gradient has at most.
            share_CB: the factors of the clipped gradients.
        """
        outers = dict(self._outers(passes, outer))
        norms = (passes[index].to_square_norms for index in outers)
        squares = [norm(outers[index]) for index, norm in zip(outers, norms, strict=True) if norm]
        factors_CB = clip_factors(torch.stack(squares).sum(0).sqrt(), max_norm) * share_CB
        # An example's gradients are linear in those of its outputs, at every layer.
        scaled = ((n, own * _with_axes(factors_CB, own)) for n, own in outers.items())
        return _weight_gradients(passes, scaled)

    def _outers(self, passes: Sequence[_Pass], outer: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Iterate over (layer, the gradient of its outputs), from the last to the first trained."""
        for index in range(len(passes) - 1, self.first - 1, -1):
            yield index, outer
            if index > self.first:
                outer = passes[index].to_inputs(outer)


def _weight_gradients(passes: Sequence[_Pass], outers: Iterable[tuple[int, Tensor]]) -> _Weights:
    gradients: _Weights = {}
    for index, outer in outers:
        for name, own in passes[index].to_weights(outer).items():
            # The chain may hold a layer twice.
            gradients[name] = gradients[name] + own if name in gradients else own
    return gradients


def _with_axes(values: Tensor, like: Tensor) -> Tensor:
    """Return values [C, B] with axes of length 1 added, to be multiplied with [C, B, ...]."""
    return values.reshape(*values.shape, *[1] * (like.dim() - 2))


def batch_by_hand(module: nn.Module) -> StackedChain | None:
    """Return a module's chain for a stack; None unless it is a chain of known layers.

    Dense layers, ``Flatten``, element-wise activations and ``Dropout``, unmodified: see
    ``alteration``.
    """
    if not is_dense_chain(module) or any(map(alteration, module.modules())):
        return None
    layers = list(_chain(module))
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    names |= {id(layer): f"{name}.key" for name, layer in dropout_layers(module).items()}
    is_trained = [any(p.requires_grad for p in layer.parameters()) for layer in layers]
    return StackedChain(
        [_stacked(layer, names) for layer in layers],
        first=is_trained.index(True),
    )


def is_dense_chain(module: nn.Module) -> bool:
    """Return whether a module is a chain of layers of known classes."""
    return all(map(_is_known, _chain(module)))


def _chain(module: nn.Module) -> Iterator[nn.Module]:
    """Iterate over the layers of nested ``Sequential`` modules, in the order of their calls."""
    if type(module) is not nn.Sequential:
        yield module
        return
    for layer in module:
        yield from _chain(layer)


def _is_known(layer: nn.Module) -> bool:
    # A subclass, or a parametrised layer, may do something else.
    if type(layer) is nn.Flatten:
        return (layer.start_dim, layer.end_dim) == (1, -1)
    if type(layer) is nn.Dropout:
        return layer.p == 0
    return type(layer) in (nn.Linear, Dropout) or type(layer) in _ELEMENTWISE


def _stacked(layer: nn.Module, names: Mapping[int, str]) -> _Layer:
    if isinstance(layer, nn.Linear):
        return _linear(layer, names)
    if isinstance(layer, nn.Flatten):
        return _flatten
    if isinstance(layer, nn.ReLU):
        return _relu
    if isinstance(layer, Dropout):
        return _dropout(layer, names[id(layer)])
    return _differentiated(_out_of_place(layer))


def _linear(layer: nn.Linear, names: Mapping[int, str]) -> _Layer:
    """Return x W' + b for each client."""
    weight_name, bias_name = names[id(layer.weight)], names.get(id(layer.bias), "")

    def forward(weights: Mapping[str, Tensor], inputs: Tensor) -> _Pass:
        rows = _as_rows(inputs)
        # Weights that are not trained are the same for all clients.
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

        def to_square_norms(outer: Tensor) -> Tensor:
            examples, own = inputs.flatten(0, 1), outer.flatten(0, 1)
            return square_norms(layer, examples, own).reshape(outer.shape[:2])

        outputs = _product(rows, weight, weights.get(bias_name, layer.bias))
        is_trained = weight_name in weights or bias_name in weights
        norms = to_square_norms if is_trained else None
        return _Pass(_like(inputs, outputs), to_inputs, to_weights, norms)

    return forward


def _dropout(layer: Dropout, key_name: str) -> _Layer:
    def forward(weights: Mapping[str, Tensor], inputs: Tensor) -> _Pass:
        key = weights.get(key_name, layer.key)
        return _differentiated(lambda values: layer.drop(values, key))(weights, inputs)

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
    """Return a layer without weights, differentiated by autograd."""

    def forward(_: Mapping[str, Tensor], inputs: Tensor) -> _Pass:
        leaf = inputs.detach().requires_grad_()
        outputs = function(leaf)

        def to_inputs(outer: Tensor) -> Tensor:
            # A sum, as of the loss.
            return torch.autograd.grad((outputs * outer).sum(), leaf)[0]

        return _Pass(outputs.detach(), to_inputs)

    return forward


def _out_of_place(layer: nn.Module) -> nn.Module:
    """Return an activation that does not work in place."""
    if not getattr(layer, "inplace", False):
        return layer
    own: Any = copy.copy(layer)
    own.inplace = False
    return cast(nn.Module, own)
