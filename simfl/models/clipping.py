"""Clipping each example's gradient, as DP-SGD does, before they are averaged.

Shapes: B examples of a batch, M of a micro-batch, ... a tensor's own axes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from simfl.errors import ConfigError
from simfl.models.call import Call
from simfl.models.dropout import dropout_layers, example_keys
from simfl.models.exact_layers import gradient_hook, own_method
from simfl.models.losses import Loss
from simfl.models.model import Batch, Inputs, map_inputs, take_examples
from simfl.vector import widened

_MAX_ELEMENTS = 2**26
"""Numbers that the gradients of a micro-batch hold at most: 256 MiB of float32."""


def clipped_gradients(
    module: nn.Module,
    loss: Loss,
    trainable: Mapping[str, nn.Parameter],
    batch: Batch,
    *,
    call: Call,
    max_norm: float,
    microbatch_size: int | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Clip each example's gradient, weight it, and average over the batch.

    Args:
        module: in training mode.
        loss: one number per example.
        trainable: the module's parameters to differentiate by.
        batch: B examples.
        call: calls the module.
        max_norm: the L2 norm that an example's gradient, over all tensors together, has at most.
        microbatch_size: how many examples' gradients are held at once; 1 differentiates one
            example after the other, which works for any module, and which is used if a layer has
            hooks
            on its gradients: they see each example's own. By default 256 MiB of them.

    Returns:
        [B] losses, detached, and the mean over B of weight_i times the clipped gradient i.

    Raises:
        ConfigError: if a layer mixes the examples of a batch.

    Source: Abadi et al., 2016, Algorithm 1, https://arxiv.org/abs/1607.00133
    """
    _require_separate_examples(module)
    size = microbatch_size or _microbatch_size(trainable)
    if any(map(_needs_autograd, module.modules())):
        size = 1
    gradients_of = _gradients_of_one if size == 1 else _gradients_of_many
    num_examples = len(batch.targets)
    keys = example_keys(dropout_layers(module), num_examples)
    totals = [torch.zeros_like(widened(parameter)) for parameter in trainable.values()]
    losses = []
    for start in range(0, num_examples, size):
        part = take_examples(batch, slice(start, start + size))
        keys_M = {name: key[start : start + size] for name, key in keys.items()}
        losses_M, gradients = gradients_of(call, loss, trainable, part, keys_M)
        gradients_M = list(map(widened, gradients))
        factors_M = _factors(gradients_M, max_norm) / num_examples
        if part.sample_weights is not None:
            factors_M = factors_M * part.sample_weights
        _add_weighted(totals, gradients_M, factors_M)
        losses.append(losses_M)
    return torch.cat(losses), totals


def clip_factors(norms: Tensor, max_norm: float) -> Tensor:
    """Return what gradients of these norms are to be scaled with."""
    factors: Tensor = (max_norm / norms).clamp(max=1.0)
    return factors


def _gradients_of_many(
    call: Call,
    loss: Loss,
    trainable: Mapping[str, nn.Parameter],
    batch: Batch,
    keys_M: dict[str, Tensor],
) -> tuple[Tensor, list[Tensor]]:
    from torch.func import grad_and_value, vmap

    def loss_of_one(
        parameters: dict[str, Tensor], keys: dict[str, Tensor], inputs: Inputs, target: Tensor
    ) -> Tensor:
        outputs = call(_with_example_axis(inputs), {**parameters, **keys})
        return loss(outputs, target.unsqueeze(0)).squeeze(0)

    parameters = {name: parameter.detach() for name, parameter in trainable.items()}
    gradients_of_each = vmap(
        grad_and_value(loss_of_one), in_dims=(None, 0, 0, 0), randomness="different"
    )
    gradients, losses_M = gradients_of_each(parameters, keys_M, batch.inputs, batch.targets)
    return losses_M, [gradients[name] for name in trainable]


def _gradients_of_one(
    call: Call,
    loss: Loss,
    trainable: Mapping[str, nn.Parameter],
    batch: Batch,
    keys_M: dict[str, Tensor],
) -> tuple[Tensor, list[Tensor]]:
    key_of_one = {name: key_M.squeeze(0) for name, key_M in keys_M.items()}
    losses = loss(call(batch.inputs, key_of_one), batch.targets)
    gradients = torch.autograd.grad(
        losses.sum(), list(trainable.values()), allow_unused=True, materialize_grads=True
    )
    return losses.detach(), [gradient.unsqueeze(0) for gradient in gradients]


def _factors(gradients_M: list[Tensor], max_norm: float) -> Tensor:
    flat = [gradient.reshape(len(gradient), gradient[0].numel()) for gradient in gradients_M]
    norms_M = torch.stack([gradient.norm(dim=1) for gradient in flat]).norm(dim=0)
    return clip_factors(norms_M, max_norm)


def _add_weighted(totals: list[Tensor], gradients_M: list[Tensor], factors_M: Tensor) -> None:
    for total, gradient in zip(totals, gradients_M, strict=True):
        total.add_(torch.tensordot(factors_M.to(gradient.dtype), gradient, dims=1))


def _microbatch_size(trainable: Mapping[str, nn.Parameter]) -> int:
    # From the model alone: rounding depends on it, and results must not depend on the machine.
    return max(2, _MAX_ELEMENTS // sum(parameter.numel() for parameter in trainable.values()))


def _with_example_axis(inputs: Inputs) -> Inputs:
    return map_inputs(inputs, lambda tensor: tensor.unsqueeze(0))


def needs_loop(layer: nn.Module) -> bool:
    """Say whether a layer has no batching rule: recurrent kernels, in-place renormalisation."""
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        return layer.max_norm is not None
    return isinstance(layer, nn.RNNBase | nn.RNNCellBase)


def _needs_autograd(layer: nn.Module) -> bool:
    """Say whether ``torch.func`` has no rule for a layer, or may ignore changes made to it."""
    return needs_loop(layer) or bool(gradient_hook(layer) or own_method(layer))


def _require_separate_examples(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        if mixes_examples(layer):
            raise ConfigError(
                f"layer {name!r} ({type(layer).__name__}) mixes the examples of a batch, so their "
                "gradients cannot be clipped one by one (sclip); use GroupNorm, or put the layer "
                "in eval mode before the module is wrapped, which freezes its statistics"
            )


def mixes_examples(layer: nn.Module) -> bool:
    """Say whether what a layer makes of an example depends on the rest of the batch."""
    if isinstance(layer, _BatchNorm):
        return layer.training or layer.running_mean is None
    return isinstance(layer, _InstanceNorm) and layer.training and layer.track_running_stats
