"""Layers for a stack of clients at once: one batched product instead of one per client.

Shapes: C clients of a stack, B examples of a batch, F numbers in, G numbers out, ... other axes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn

from simfl.models.dropout import Dropout

__all__ = ["StackedForward", "batch_by_hand"]

StackedForward: TypeAlias = "Callable[[Mapping[str, Tensor], Tensor], Tensor]"
"""(weights [C, ...] by name, inputs [C, B, ...]) -> outputs [C, B, ...]."""

_ELEMENTWISE: Final = frozenset(
    {nn.ReLU, nn.Tanh, nn.GELU, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.Softplus, nn.Identity}
)


def batch_by_hand(module: nn.Module) -> StackedForward | None:
    """Return a module's forward for a stack, if it is a chain of layers that are known here.

    Dense layers, ``Flatten``, element-wise activations and ``Dropout``. It is the same function as
    ``torch.func.vmap`` makes of it, in a third of the time for small models.
    """
    if not all(_is_known(layer) for layer in _chain(module)):
        return None
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    steps = [_stacked(layer, names) for layer in _chain(module)]

    def forward(weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        for step in steps:
            inputs = step(weights, inputs)
        return inputs

    return forward


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


def _stacked(layer: nn.Module, names: Mapping[int, str]) -> StackedForward:
    if isinstance(layer, nn.Linear):
        return _linear(layer, names)
    if isinstance(layer, nn.Flatten):
        return lambda _, inputs: inputs.flatten(2)
    if isinstance(layer, Dropout):
        return lambda _, inputs: layer.drop(inputs, layer.key)
    return lambda _, inputs: layer(inputs)


def _linear(layer: nn.Linear, names: Mapping[int, str]) -> StackedForward:
    def own(parameter: Tensor | None, weights: Mapping[str, Tensor], count: int) -> Tensor | None:
        if parameter is None:
            return None
        name = names[id(parameter)]
        # What is not trained is the same for all clients.
        return weights[name] if name in weights else parameter.expand(count, *parameter.shape)

    def forward(weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        count = len(inputs)
        weight, bias = (own(p, weights, count) for p in (layer.weight, layer.bias))
        rows = inputs.flatten(1, -2)
        outputs: Tensor = _StackedLinear.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
        return outputs.reshape(*inputs.shape[:-1], layer.out_features)

    return forward


class _StackedLinear(torch.autograd.Function):
    """x W' + b for each client.

    Of its own, since autograd's gradient of W' is W's transposed: a copy, or a slow update, which
    takes most of the time of a small model.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return [C, B, G] for inputs [C, B, F], weight [C, G, F] and bias [C, G]."""
        ctx.save_for_backward(inputs, weight)
        if bias is None:
            return torch.bmm(inputs, weight.mT)
        return torch.baddbmm(bias.unsqueeze(1), inputs, weight.mT)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of inputs, weight and bias, of those that need one."""
        inputs, weight = ctx.saved_tensors
        (outer,) = gradients
        needs_inputs, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            torch.bmm(outer, weight) if needs_inputs else None,
            torch.bmm(outer.mT, inputs) if needs_weight else None,
            outer.sum(1) if needs_bias else None,
        )
