"""Gradient checkpointing: layers whose activations are computed again for the gradients.

Source: Chen et al., 2016, https://arxiv.org/abs/1604.06174
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from simfl.errors import ConfigError


def recompute_layers(module: nn.Module) -> None:
    """Let the layers of a model of ``transformers`` be computed again for the gradients, in place.

    Raises:
        ConfigError: if it has none that can be.
    """
    layers = [layer for layer in module.modules() if hasattr(layer, "gradient_checkpointing")]
    if not layers:
        raise ConfigError(
            f"model huggingface: {type(module).__name__} has no gradient checkpointing; leave "
            "gradient_checkpointing out"
        )
    for layer in layers:
        layer.gradient_checkpointing = True  # type: ignore[assignment]
        layer._gradient_checkpointing_func = partial(_call, layer)  # type: ignore[assignment]


class _Called(nn.Module):
    """A call of a layer, as a module, so that its tensors can be replaced."""

    def __init__(self, layer: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.layer = layer
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


def _call(layer: nn.Module, function: Callable[..., Any], *inputs: Any) -> Any:
    """Call a function of the layer, without keeping what it computes on the way.

    The second time, during the backward pass, it computes with the tensors of the first time, which
    ``torch.func.functional_call`` may have replaced for that call only.
    """
    from torch.func import functional_call
    from torch.utils.checkpoint import checkpoint

    called = _Called(layer, function)
    named = (*layer.named_parameters(), *layer.named_buffers())
    tensors: dict[str, Tensor] = {f"layer.{name}": value for name, value in named}

    def compute(*inputs: Any) -> Any:
        return functional_call(called, tensors, inputs)

    return checkpoint(compute, *inputs, use_reentrant=False, preserve_rng_state=True)
