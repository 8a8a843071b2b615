"""Which layers are exactly what their class says, so that they may be computed in another way.

Stacks, and the clipping of each example's gradient, compute known layers by hand, and differentiate
the rest by ``torch.func``. Both would pass over some of what torch lets one attach to a layer.
"""

from __future__ import annotations

from typing import Final

from torch import nn
from torch.nn.modules import module as _torch

__all__ = ["alteration", "gradient_hook", "own_method"]

_HOOKS: Final = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_GLOBAL_HOOKS: Final = tuple(f"_global{name}" for name in _HOOKS)
_WEIGHTS: Final = frozenset({"weight", "bias"})


def alteration(layer: nn.Module) -> str | None:
    """Return how a layer differs from what its class makes of its weights; None if it does not.

    Of a layer of a known class; what it names must be called as it is. Layers within it are looked
    at by themselves.
    """
    values = vars(layer)
    if any(values[name] for name in _HOOKS) or any(getattr(_torch, name) for name in _GLOBAL_HOOKS):
        return "has a hook"
    if any(type(weight) not in (nn.Parameter, type(None)) for weight in layer._parameters.values()):
        return "has weights of a class of their own"
    if _WEIGHTS & (values.keys() | layer._buffers.keys()) or _is_added_to(layer):
        return "has other weights than its class"
    return own_method(layer) or gradient_hook(layer)


def own_method(layer: nn.Module) -> str | None:
    """Return a method that has been replaced in this very layer.

    It may hold on to weights, which ``torch.func`` would not replace.
    """
    for name in vars(layer):
        if callable(getattr(type(layer), name, None)):
            return f"has a {name}() of its own"
    return None


def _is_added_to(layer: nn.Module) -> bool:
    """Say whether somebody has given a known layer further weights or layers."""
    if type(layer) is nn.Sequential:
        return bool(layer._parameters)
    if type(layer).__module__.startswith("simfl."):
        return False
    return bool(layer._modules) or not layer._parameters.keys() <= _WEIGHTS


def gradient_hook(layer: nn.Module) -> str | None:
    """Return what changes gradients on their way back through a layer, but not in ``torch.func``.

    Layers within the layer are looked at by themselves.
    """
    values = vars(layer)
    is_global = _torch._global_backward_hooks or _torch._global_backward_pre_hooks
    if is_global or values["_backward_hooks"] or values["_backward_pre_hooks"]:
        return "has a hook on the way back"
    for name, weight in layer._parameters.items():
        if weight is not None and weight._backward_hooks:
            return f"has a hook on the gradient of its {name}"
    return None
