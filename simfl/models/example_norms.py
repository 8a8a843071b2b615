"""The norm of each example's gradient, computed without the gradient itself.

The gradient of a layer's weights for one example is a product of the layer's inputs and the
gradient of its outputs. So its norm follows from these two, which are far smaller than a batch's
gradients.

Shapes: B examples, L positions of an example (one, except in sequences and images), F inputs and G
outputs at each position.

Source: Goodfellow, 2015, https://arxiv.org/abs/1510.01799; for several positions Li et al., 2021,
section 4 ("ghost clipping"), https://arxiv.org/abs/2110.05679, and the choice between the two ways
Bu et al., 2022, https://arxiv.org/abs/2205.10683.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.grad import conv2d_weight

_PATCHES_COST: Final = 32
"""The cost of a number computed from patches, relative to one of a gradient; measured on a CPU."""

_Rule: TypeAlias = "Callable[[Any, Tensor, Tensor], Tensor]"
"""(layer, inputs [B, ...], gradients of outputs [B, ...]) -> the squared norms of weights, [B]."""


def has_square_norms(layer: nn.Module) -> bool:
    """Return whether ``square_norms`` supports a layer."""
    if type(layer) is nn.Conv2d:
        return layer.padding_mode == "zeros" and layer.padding != "same"
    if type(layer) is nn.Embedding:
        return layer.max_norm is None and not layer.scale_grad_by_freq
    return type(layer) in _RULES


def square_norms(layer: nn.Module, inputs: Tensor, outer: Tensor) -> Tensor:
    """Return the squared L2 norm of each example's gradient of a layer's trained weights: [B].

    Args:
        layer: one that ``has_square_norms``.
        inputs: [B, ...] its inputs.
        outer: [B, ...] the gradients of its outputs.
    """
    inputs, outer = _in_full(inputs), _in_full(outer)
    weight, bias = layer.weight, getattr(layer, "bias", None)
    squares_B = torch.zeros(len(outer), dtype=outer.dtype, device=outer.device)
    if isinstance(weight, Tensor) and weight.requires_grad:
        squares_B = squares_B + _RULES[type(layer)](layer, inputs, outer)
    if isinstance(bias, Tensor) and bias.requires_grad:
        squares_B = squares_B + _bias(layer, outer)
    return squares_B


def dense_square_norms(inputs_BLF: Tensor, outer_BLG: Tensor) -> Tensor:
    """Return the squared norm of each example's sum over positions of outer products: [B]."""
    positions, sizes = inputs_BLF.shape[1], inputs_BLF.shape[2] * outer_BLG.shape[2]
    if positions == 1:
        return inputs_BLF.square().sum((1, 2)) * outer_BLG.square().sum((1, 2))
    if positions * positions <= sizes:
        pairs_BLL = torch.bmm(inputs_BLF, inputs_BLF.mT) * torch.bmm(outer_BLG, outer_BLG.mT)
        # A sum of terms that may cancel; rounding must not make it negative.
        return pairs_BLL.sum((1, 2)).clamp(min=0.0)
    return torch.bmm(outer_BLG.mT, inputs_BLF).square().sum((1, 2))


def _in_full(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def _dense(layer: nn.Linear, inputs: Tensor, outer: Tensor) -> Tensor:
    num = len(inputs)
    rows_BLF = inputs.reshape(num, -1, layer.in_features)
    return dense_square_norms(rows_BLF, outer.reshape(num, -1, layer.out_features))


def _convolution(layer: nn.Conv2d, inputs: Tensor, outer: Tensor) -> Tensor:
    num, channels = inputs.shape[:2]
    positions, sizes = outer[0, 0].numel(), layer.weight.numel()
    padding = 0 if isinstance(layer.padding, str) else layer.padding
    shape = {"stride": layer.stride, "padding": padding, "dilation": layer.dilation}
    if layer.groups == 1 and _PATCHES_COST * positions * positions <= sizes:
        # A dense layer on the patch of inputs of each output.
        patches_BFL = F.unfold(inputs, layer.kernel_size, **shape)
        return dense_square_norms(patches_BFL.mT, outer.flatten(2).mT)
    # One convolution with groups of channels per example has a gradient for each of them.
    gradients: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
        inputs.reshape(1, num * channels, *inputs.shape[2:]),
        (num * layer.out_channels, channels // layer.groups, *layer.kernel_size),
        outer.reshape(1, num * layer.out_channels, *outer.shape[2:]),
        groups=num * layer.groups,
        **shape,
    )
    return gradients.reshape(num, -1).square().sum(1)


def _group_norm(layer: nn.GroupNorm, inputs: Tensor, outer: Tensor) -> Tensor:
    normal = F.group_norm(inputs, layer.num_groups, eps=layer.eps)
    return _channel_sums(normal * outer, layer.num_channels).square().sum(1)


def _layer_norm(layer: nn.LayerNorm, inputs: Tensor, outer: Tensor) -> Tensor:
    normal = F.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
    return _position_sums(normal * outer, layer.weight.numel()).square().sum(1)


def _embedding(layer: nn.Embedding, inputs: Tensor, outer: Tensor) -> Tensor:
    """Add up the gradients of equal tokens."""
    tokens_BL = inputs.flatten(1) if inputs.dim() > 1 else inputs.unsqueeze(1)
    outer_BLG = outer.reshape(*tokens_BL.shape, -1)
    is_same_BLL = tokens_BL.unsqueeze(2) == tokens_BL.unsqueeze(1)
    if layer.padding_idx is not None:
        is_same_BLL = is_same_BLL & (tokens_BL != layer.padding_idx).unsqueeze(1)
    return (torch.bmm(outer_BLG, outer_BLG.mT) * is_same_BLL).sum((1, 2)).clamp(min=0.0)


def _bias(layer: nn.Module, outer: Tensor) -> Tensor:
    if isinstance(layer, nn.Conv2d | nn.GroupNorm):
        return _channel_sums(outer, outer.shape[1]).square().sum(1)
    size = layer.bias.numel()  # type: ignore[operator]
    return _position_sums(outer, size).square().sum(1)


def _channel_sums(values: Tensor, num_channels: int) -> Tensor:
    """Sum over all axes but the first two, examples and channels."""
    return values.reshape(len(values), num_channels, -1).sum(2)


def _position_sums(values: Tensor, size: int) -> Tensor:
    """Sum over positions; each has ``size`` numbers."""
    return values.reshape(len(values), -1, size).sum(1)


_RULES: Final[dict[type[nn.Module], _Rule]] = {
    nn.Linear: _dense,
    nn.Conv2d: _convolution,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.Embedding: _embedding,
}
