"""Clipping each example's gradient, as DP-SGD does, before they are averaged.

There are two ways with the same result. Where the layers are known, the norm of each example's
gradient follows from a pass back, without the gradient ("ghost clipping"): as fast as a step and a
half. Elsewhere the gradients of a micro-batch of examples are computed, clipped and added up.

Shapes: B examples of a batch, M of a micro-batch, ... a tensor's own axes.

Source: Abadi et al., 2016, Algorithm 1, https://arxiv.org/abs/1607.00133; ghost clipping: Li et
al., 2021, section 4, https://arxiv.org/abs/2110.05679
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from simfl.errors import ConfigError
from simfl.models.dropout import dropout_layers, example_keys
from simfl.models.example_norms import has_square_norms, square_norms
from simfl.models.layers import alteration, gradient_hook, mixes_examples, needs_loop, own_method
from simfl.models.loss import Loss
from simfl.models.model import Batch, Call, Inputs, map_inputs, take_examples
from simfl.vector import widened

_MAX_ELEMENTS: Final = 2**26
"""The most numbers that the gradients of a micro-batch hold: 256 MiB of float32."""

_APART: Final = frozenset(
    {
        nn.Sequential,
        nn.Identity,
        nn.ReLU,
        nn.ReLU6,
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
"""Layers without weights that treat each example separately."""


@dataclass(frozen=True)
class ExampleClipping:
    """Computes the mean over a batch of its examples' clipped gradients."""

    module: nn.Module
    """In training mode when it is called."""
    loss: Loss
    trainable: Mapping[str, nn.Parameter]
    """The module's parameters to differentiate by."""
    call: Call
    """Calls the module."""
    layers: Sequence[nn.Module]
    """From ``layers_with_norms``; empty: the gradients themselves are computed."""
    microbatch_size: int | None = None
    """How many examples' gradients are held at once; 1 differentiates one example after another,
    which works for any module, and which is used if a layer has hooks on its gradients, since they
    receive each example's own. By default 256 MiB of them, and none where norms suffice."""

    def gradients(self, batch: Batch, max_norm: float) -> tuple[Tensor, list[Tensor]]:
        """Clip each example's gradient, weight it, and average over the batch.

        Args:
            batch: B examples.
            max_norm: the largest L2 norm of an example's gradient, over all tensors together.

        Returns:
            [B] losses, detached, and the mean over B of weight_i times the clipped gradient i.

        Raises:
            ConfigError: if a layer mixes the examples of a batch.
        """
        if self.layers and self.microbatch_size is None:
            return self._by_norms(batch, max_norm)
        return self._by_microbatches(batch, max_norm)

    def _by_norms(self, batch: Batch, max_norm: float) -> tuple[Tensor, list[Tensor]]:
        """Find the norms in a first pass back, and the sum of the clipped gradients in a second."""
        inputs: dict[nn.Module, Tensor] = {}
        outputs: dict[nn.Module, Tensor] = {}

        def record(layer: nn.Module, arguments: tuple[Tensor, ...], returned: Tensor) -> None:
            inputs[layer], outputs[layer] = arguments[0].detach(), returned

        hooks = [layer.register_forward_hook(record) for layer in self.layers]
        try:
            keys = example_keys(dropout_layers(self.module), len(batch.targets))
            losses_B = self.loss(self.call(batch.inputs, keys), batch.targets)
        finally:
            for hook in hooks:
                hook.remove()
        outer = torch.autograd.grad(losses_B.sum(), list(outputs.values()), retain_graph=True)
        squares = [
            square_norms(layer, inputs[layer], gradient)
            for layer, gradient in zip(outputs, outer, strict=True)
        ]
        factors_B = clip_factors(torch.stack(squares).sum(0).sqrt(), max_norm) / len(batch.targets)
        factors_B = _weighted(factors_B, batch)
        gradients = torch.autograd.grad((losses_B * factors_B).sum(), list(self.trainable.values()))
        return losses_B.detach(), list(gradients)

    def _by_microbatches(self, batch: Batch, max_norm: float) -> tuple[Tensor, list[Tensor]]:
        _require_separate_examples(self.module)
        size = self.microbatch_size or _microbatch_size(self.trainable)
        if any(map(_needs_autograd, self.module.modules())):
            size = 1
        gradients_of = self._gradients_of_one if size == 1 else self._gradients_of_many
        num_examples = len(batch.targets)
        keys = example_keys(dropout_layers(self.module), num_examples)
        totals = [torch.zeros_like(widened(parameter)) for parameter in self.trainable.values()]
        losses = []
        for start in range(0, num_examples, size):
            part = take_examples(batch, slice(start, start + size))
            keys_M = {name: key[start : start + size] for name, key in keys.items()}
            losses_M, gradients = gradients_of(part, keys_M)
            gradients_M = list(map(widened, gradients))
            factors_M = clip_factors(_norms(gradients_M), max_norm) / num_examples
            _add_weighted(totals, gradients_M, _weighted(factors_M, part))
            losses.append(losses_M)
        return torch.cat(losses), totals

    def _gradients_of_many(
        self, batch: Batch, keys_M: dict[str, Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        from torch.func import grad_and_value, vmap

        def loss_of_one(
            parameters: dict[str, Tensor], keys: dict[str, Tensor], inputs: Inputs, target: Tensor
        ) -> Tensor:
            one = map_inputs(inputs, lambda tensor: tensor.unsqueeze(0))
            outputs = self.call(one, {**parameters, **keys})
            return self.loss(outputs, target.unsqueeze(0)).squeeze(0)

        parameters = {name: parameter.detach() for name, parameter in self.trainable.items()}
        gradients_of_each = vmap(
            grad_and_value(loss_of_one), in_dims=(None, 0, 0, 0), randomness="different"
        )
        gradients, losses_M = gradients_of_each(parameters, keys_M, batch.inputs, batch.targets)
        return losses_M, [gradients[name] for name in self.trainable]

    def _gradients_of_one(
        self, batch: Batch, keys_M: dict[str, Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        key_of_one = {name: key_M.squeeze(0) for name, key_M in keys_M.items()}
        losses = self.loss(self.call(batch.inputs, key_of_one), batch.targets)
        gradients = torch.autograd.grad(
            losses.sum(),
            list(self.trainable.values()),
            allow_unused=True,
            materialize_grads=True,
        )
        return losses.detach(), [gradient.unsqueeze(0) for gradient in gradients]


def layers_with_norms(module: nn.Module) -> list[nn.Module]:
    """Return the layers with trained weights, if the norms of examples' gradients can be found.

    Empty if they cannot: for layers without a rule, weights that are used twice, and users' own
    layers, which may combine the examples of a batch in any way.
    """
    layers = [layer for _, layer in module.named_modules(remove_duplicate=False)]
    with_weights = [layer for layer in layers if _is_trained(layer)]
    weights = [id(p) for layer in with_weights for p in layer.parameters(recurse=False)]
    is_known = all(map(_keeps_examples_apart, layers)) and all(map(has_square_norms, with_weights))
    return with_weights if is_known and len(set(weights)) == len(weights) else []


def clip_factors(norms: Tensor, max_norm: float) -> Tensor:
    """Return the factors by which gradients of these norms are scaled."""
    factors: Tensor = (max_norm / norms).clamp(max=1.0)
    return factors


def _weighted(factors: Tensor, batch: Batch) -> Tensor:
    return factors if batch.sample_weights is None else factors * batch.sample_weights


def _norms(gradients_M: list[Tensor]) -> Tensor:
    flat = [gradient.reshape(len(gradient), gradient[0].numel()) for gradient in gradients_M]
    norms_M: Tensor = torch.stack([gradient.norm(dim=1) for gradient in flat]).norm(dim=0)
    return norms_M


def _add_weighted(totals: list[Tensor], gradients_M: list[Tensor], factors_M: Tensor) -> None:
    for total, gradient in zip(totals, gradients_M, strict=True):
        total.add_(torch.tensordot(factors_M.to(gradient.dtype), gradient, dims=1))


def _microbatch_size(trainable: Mapping[str, nn.Parameter]) -> int:
    # From the model alone: rounding depends on it, and results must not depend on the machine.
    return max(2, _MAX_ELEMENTS // sum(parameter.numel() for parameter in trainable.values()))


def _is_trained(layer: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in layer.parameters(recurse=False))


def _keeps_examples_apart(layer: nn.Module) -> bool:
    """Return whether a layer is known to treat examples separately and not to change inputs."""
    if alteration(layer):
        return False
    if isinstance(layer, nn.Flatten | nn.Unflatten):
        begin = layer.start_dim if isinstance(layer, nn.Flatten) else layer.dim
        return type(layer) in (nn.Flatten, nn.Unflatten) and begin == 1
    is_ours = type(layer).__module__.startswith("simfl.models.")
    is_torchs = type(layer) in _APART or has_square_norms(layer)
    return (is_ours or is_torchs) and not getattr(layer, "inplace", False)


def _needs_autograd(layer: nn.Module) -> bool:
    """Return whether ``torch.func`` has no rule for a layer, or may ignore changes made to it."""
    return needs_loop(layer) or bool(gradient_hook(layer) or own_method(layer))


def _require_separate_examples(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        if mixes_examples(layer):
            raise ConfigError(
                f"layer {name!r} ({type(layer).__name__}) mixes the examples of a batch, so their "
                "gradients cannot be clipped one by one (sclip); use GroupNorm, or put the layer "
                "in eval mode before the module is wrapped, which freezes its statistics"
            )
