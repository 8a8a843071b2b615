"""Which layers simfl may compute in another way than by calling them.

Stacks and per-example clipping compute known layers by hand, and differentiate the rest with
``torch.func``. Both ignore some of what can be attached to a layer in torch, such as hooks.
"""

from __future__ import annotations

from typing import Final

from torch import nn
from torch.nn.modules import module as _torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

_HOOKS: Final = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_GLOBAL_HOOKS: Final = tuple(f"_global{name}" for name in _HOOKS)
_WEIGHTS: Final = frozenset({"weight", "bias"})


def alteration(layer: nn.Module) -> str | None:
    """Return how a layer of a known class was modified; None if it was not.

    A modified layer must be called as it is. Layers within it are checked separately.
    """
    values = vars(layer)
    if has_hook(layer):
        return "has a hook"
    if any(type(weight) not in (nn.Parameter, type(None)) for weight in layer._parameters.values()):
        return "has weights of a subclass of Parameter"
    if _WEIGHTS & (values.keys() | layer._buffers.keys()) or _is_added_to(layer):
        return "has weights that its class does not have"
    return own_method(layer) or gradient_hook(layer)


def has_hook(layer: nn.Module) -> bool:
    """Return whether calling a layer calls something else, too."""
    values = vars(layer)
    is_global = any(getattr(_torch, name) for name in _GLOBAL_HOOKS)
    return is_global or any(values[name] for name in _HOOKS)


def own_method(layer: nn.Module) -> str | None:
    """Return a message about a method that was replaced on this instance; None without any.

    Such a method may refer to weights that ``torch.func`` would not replace.
    """
    for name in vars(layer):
        if callable(getattr(type(layer), name, None)):
            return f"has a replaced {name}()"
    return None


def _is_added_to(layer: nn.Module) -> bool:
    """Return whether a known layer has additional weights or layers."""
    if type(layer) is nn.Sequential:
        return bool(layer._parameters)
    if type(layer).__module__.startswith("simfl."):
        return False
    return bool(layer._modules) or not layer._parameters.keys() <= _WEIGHTS


def gradient_hook(layer: nn.Module) -> str | None:
    """Return a message about a hook on gradients, which ``torch.func`` ignores; None without any.

    Layers within the layer are checked separately.
    """
    values = vars(layer)
    is_global = _torch._global_backward_hooks or _torch._global_backward_pre_hooks
    if is_global or values["_backward_hooks"] or values["_backward_pre_hooks"]:
        return "has a backward hook"
    for name, weight in layer._parameters.items():
        if weight is not None and weight._backward_hooks:
            return f"has a gradient hook on its {name}"
    return None


def needs_loop(layer: nn.Module) -> bool:
    """Return whether vmap has no rule for a layer.

    Recurrent kernels, in-place renormalisation, and layers of transformers that compute activations
    again (``recomputing.py``).
    """
    if getattr(layer, "gradient_checkpointing", False):
        return True
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        return layer.max_norm is not None
    return isinstance(layer, nn.RNNBase | nn.RNNCellBase)


def mixes_examples(layer: nn.Module) -> bool:
    """Return whether a layer's output for an example depends on the rest of the batch."""
    if isinstance(layer, _BatchNorm):
        return layer.training or layer.running_mean is None
    return isinstance(layer, _InstanceNorm) and layer.training and layer.track_running_stats
