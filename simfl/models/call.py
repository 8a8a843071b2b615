"""Calling a module: in which form its inputs come, and in which precision it computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from simfl.models.model import Inputs

Precision: TypeAlias = Literal["float32", "bf16"]
"""What a module's layers compute in: what the weights are in, or bfloat16 where that is safe."""

Call: TypeAlias = Callable[..., Any]
"""(inputs, tensors by name that take the place of the module's own) -> outputs."""


def call_module(
    module: nn.Module, inputs: Inputs, instead: Mapping[str, Tensor] | None = None
) -> Any:
    """Call with one tensor, with positional arguments, or with keyword arguments.

    Args:
        module: is called.
        inputs: what with.
        instead: what takes the place of its parameters and buffers, by name.
    """
    keywords = inputs if isinstance(inputs, dict) else {}
    arguments = inputs if isinstance(inputs, tuple) else () if keywords else (inputs,)
    if not instead:
        return module(*arguments, **keywords)
    from torch.func import functional_call

    return functional_call(module, dict(instead), arguments, keywords)


def call_in_precision(
    precision: Precision,
    module: nn.Module,
    inputs: Inputs,
    instead: Mapping[str, Tensor] | None = None,
    *,
    device: torch.device,
) -> Any:
    """Call a module as ``call_module`` does; what it returns is as exact as its weights.

    With ``bf16`` matrix products and convolutions take bfloat16, and what needs more, such as
    norms, float32 (https://docs.pytorch.org/docs/stable/amp.html). Weights and gradients stay in
    float32, and so do outputs, of which the loss is made.
    """
    if precision == "float32":
        return call_module(module, inputs, instead)
    with torch.autocast(device.type, torch.bfloat16):
        outputs = call_module(module, inputs, instead)
    return _as_float32(outputs)


def _as_float32(outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        return outputs.float() if outputs.dtype is torch.bfloat16 else outputs
    if type(outputs) in (tuple, list):
        return type(outputs)(_as_float32(value) for value in outputs)
    if type(outputs) is dict:
        return {name: _as_float32(value) for name, value in outputs.items()}
    return outputs
