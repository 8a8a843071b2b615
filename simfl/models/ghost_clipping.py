"""Clipping each example's gradient without making it: as fast as a step and a half.

Shapes: B examples, ... a tensor's own axes.

Source: Li et al., 2021, section 4 ("ghost clipping"), https://arxiv.org/abs/2110.05679
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from simfl.models.call import Call
from simfl.models.clipping import clip_factors
from simfl.models.dropout import dropout_layers, example_keys
from simfl.models.exact_layers import alteration
from simfl.models.example_norms import has_square_norms, square_norms
from simfl.models.losses import Loss
from simfl.models.model import Batch

_APART: Final = frozenset(
    {
        nn.Sequential,
        nn.Identity,
        nn.ReLU,
        nn.LeakyReLU,
        nn.ELU,
        nn.GELU,
        nn.SiLU,
        nn.Sigmoid,
        nn.Tanh,
        nn.Softplus,
        nn.MaxPool2d,
        nn.AvgPool2d,
        nn.AdaptiveAvgPool2d,
        nn.AdaptiveMaxPool2d,
    }
)
"""Layers without weights that treat each example by itself."""


def layers_with_norms(module: nn.Module) -> list[nn.Module]:
    """Return the layers with weights that are trained, if the norms of gradients can be found.

    Empty where they cannot: for layers without a rule, weights that are used twice, and code of
    others, which may do with a batch whatever it likes.
    """
    layers = [layer for _, layer in module.named_modules(remove_duplicate=False)]
    with_weights = [layer for layer in layers if _is_trained(layer)]
    weights = [id(p) for layer in with_weights for p in layer.parameters(recurse=False)]
    is_known = all(_keeps_examples_apart(layer) for layer in layers) and all(
        has_square_norms(layer) for layer in with_weights
    )
    return with_weights if is_known and len(set(weights)) == len(weights) else []


def _is_trained(layer: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in layer.parameters(recurse=False))


def _keeps_examples_apart(layer: nn.Module) -> bool:
    """Say whether a layer is known to leave its inputs alone, and each example to itself."""
    if alteration(layer):
        return False
    if isinstance(layer, nn.Flatten | nn.Unflatten):
        begin = layer.start_dim if isinstance(layer, nn.Flatten) else layer.dim
        return type(layer) in (nn.Flatten, nn.Unflatten) and begin == 1
    is_ours = type(layer).__module__.startswith("simfl.models.")
    is_torchs = type(layer) in _APART or has_square_norms(layer)
    return (is_ours or is_torchs) and not getattr(layer, "inplace", False)


def clip_by_norms(
    module: nn.Module,
    loss: Loss,
    trainable: Mapping[str, nn.Parameter],
    batch: Batch,
    *,
    call: Call,
    layers: Sequence[nn.Module],
    max_norm: float,
) -> tuple[Tensor, list[Tensor]]:
    """Clip each example's gradient, weight it, and average over the batch.

    A first pass back finds the norms, a second one the sum of what is left of each gradient.

    Args:
        module: in training mode.
        loss: one number per example.
        trainable: the module's parameters to differentiate by.
        batch: B examples.
        call: calls the module.
        layers: from ``layers_with_norms``.
        max_norm: the L2 norm that an example's gradient, over all tensors together, has at most.

    Returns:
        As ``clipped_gradients``.
    """
    inputs: dict[nn.Module, Tensor] = {}
    outputs: dict[nn.Module, Tensor] = {}

    def note(layer: nn.Module, arguments: tuple[Tensor, ...], returned: Tensor) -> None:
        inputs[layer], outputs[layer] = arguments[0].detach(), returned

    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        keys = example_keys(dropout_layers(module), len(batch.targets))
        losses_B = loss(call(batch.inputs, keys), batch.targets)
    finally:
        for hook in hooks:
            hook.remove()
    outer = torch.autograd.grad(losses_B.sum(), list(outputs.values()), retain_graph=True)
    squares = [
        square_norms(layer, inputs[layer], gradient)
        for layer, gradient in zip(outputs, outer, strict=True)
    ]
    factors_B = clip_factors(torch.stack(squares).sum(0).sqrt(), max_norm) / len(batch.targets)
    if batch.sample_weights is not None:
        factors_B = factors_B * batch.sample_weights
    gradients = torch.autograd.grad((losses_B * factors_B).sum(), list(trainable.values()))
    return losses_B.detach(), list(gradients)
