"""Which weights and buffers of a module a scenario names: by name, layer, pattern or ``norm``."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Final

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.normalization import GroupNorm, LayerNorm

from simfl.errors import ConfigError, did_you_mean
from simfl.vector import Vector
from simfl.vector.memory import raw

NORM: Final = "norm"
"""Stands for all normalisation layers."""

_NORM_CLASS: Final = re.compile(r".*Norm([123]d)?$")
_SHOWN: Final = 20
"""How many layers a message lists."""
_SHOWN_DEPTH: Final = 2
"""How deep these are nested, at most."""


def resolve_names(module: nn.Module, patterns: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the weights and persistent buffers that patterns stand for.

    Args:
        module: whose weights and buffers are named.
        patterns: each a name; the name of a layer, for all in it; a pattern of names or of layers
            as in a shell, whose ``*`` also stands for dots; or ``norm``, for the weights and
            buffers of all normalisation layers: torch's, and classes whose name ends in ``Norm``.

    Returns:
        The names in the order of ``state_dict``; of a tensor with several names, the first.

    Raises:
        ConfigError: if nothing has such a name, or a tensor with several names is named by some of
            them only.

    >>> resolve_names(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), ["norm", "0.b*"])
    ('0.bias', '1.weight', '1.bias')
    """
    state = _named_state(module)
    chosen: set[str] = set()
    for pattern in patterns:
        names = _matches(module, pattern, state)
        if not names:
            raise ConfigError(_unknown(module, pattern, state))
        chosen |= names
    _require_whole(state, chosen)
    first: dict[int, str] = {}
    for name, tensor in state.items():
        first.setdefault(id(tensor), name)
    return tuple(name for name in first.values() if name in chosen)


def fixed_names(module: nn.Module, patterns: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the weights and buffers that no client ever changes.

    Those are the ones that are named, and the weights that the module itself has frozen
    (``requires_grad`` is False). Buffers of frozen layers are not among them unless they are named,
    since BatchNorm, for one, changes them nevertheless.

    Raises:
        ConfigError: as ``resolve_names``, and if nothing is left to train.
    """
    names = {*resolve_names(module, patterns)}
    if names and not _trained(module).keys() - names:
        raise ConfigError("names every weight that is trained; leave one out, so that one is left")
    first: dict[int, str] = {}
    for name, tensor in _named_state(module).items():
        first.setdefault(id(tensor), name)
        if isinstance(tensor, nn.Parameter) and not tensor.requires_grad:
            names.add(name)
    return tuple(name for name in first.values() if name in names)


def personal_names(
    module: nn.Module, patterns: Iterable[str], *, fixed: Collection[str] = ()
) -> tuple[str, ...]:
    """Return the names of the weights and buffers that each client keeps for itself.

    Args:
        module: whose they are.
        patterns: as for ``resolve_names``.
        fixed: the names that no client changes.

    Raises:
        ConfigError: as ``resolve_names``; if a weight is fixed, too, or is not trained; and if no
            trained weight is left for clients to share.
    """
    names = resolve_names(module, patterns)
    state = _named_state(module)
    for name in names:
        is_frozen = isinstance(state[name], nn.Parameter) and not state[name].requires_grad
        if is_frozen or state[name].is_complex():
            what = "is frozen (requires_grad is False)" if is_frozen else "is a complex buffer"
            raise ConfigError(
                f"names {name!r}, which {what}, so that it is the same for all clients; leave it "
                "out"
            )
        if name in fixed:
            raise ConfigError(f"names {name!r}, and so does model.fixed; name it in one of them")
    if names and not _trained(module).keys() - {*names, *fixed}:
        raise ConfigError(
            "names every weight that is trained, so that clients would share none; leave out those "
            "that they share"
        )
    return names


def fix(module: nn.Module, names: Collection[str]) -> list[nn.Module]:
    """Freeze these weights, in place; return the layers that have such buffers.

    These must be in evaluation mode, so that training does not change their buffers.
    """
    parameters, layers = dict(module.named_parameters()), _layers_of(module)
    for name in names:
        if name in parameters:
            parameters[name].requires_grad_(False)
    return [layers[_layer_of(name)] for name in names if name not in parameters]


def digests_of(weights: Vector) -> dict[str, str]:
    """Return a digest of each tensor's bits, by name: 16 hexadecimal digits of its SHA-256."""
    return {name: sha256(raw(tensor).data).hexdigest()[:16] for name, tensor in weights.items()}


def joint_digest(digests: Mapping[str, str]) -> str:
    """Return one digest for tensors with these names and digests, in any order."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return sha256(lines.encode()).hexdigest()[:16]


def _named_state(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by all their names."""
    state = module.state_dict(keep_vars=True).items()
    return {name: value for name, value in state if isinstance(value, Tensor)}


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


def _matches(module: nn.Module, pattern: str, state: Collection[str]) -> set[str]:
    if pattern == NORM:
        layers = _layers_of(module)
        return {name for name in state if _is_norm(layers.get(_layer_of(name)))}
    if pattern in state:
        return {pattern}
    return {
        name for name in state if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
    }


def _is_norm(layer: nn.Module | None) -> bool:
    """Return whether a layer itself normalises; not one that contains such layers."""
    is_known = isinstance(layer, _NormBase | LayerNorm | GroupNorm)
    return is_known or bool(_NORM_CLASS.match(type(layer).__name__))


def _require_whole(state: Mapping[str, Tensor], chosen: Collection[str]) -> None:
    """Raise an error if only some names of a tensor are chosen.

    Raises:
        ConfigError: with two of them.
    """
    names: dict[int, list[str]] = {}
    for name, tensor in state.items():
        names.setdefault(id(tensor), []).append(name)
    for own in names.values():
        left = [name for name in own if name not in chosen]
        if left and len(left) < len(own):
            named = next(name for name in own if name in chosen)
            raise ConfigError(
                f"names {named!r} but not {left[0]!r}, and both are one tensor; name both, or none"
            )


def _unknown(module: nn.Module, pattern: str, state: Collection[str]) -> str:
    if pattern == NORM:
        return f"names {NORM!r}, but the model has no normalisation layer with weights; remove it"
    layers = [layer for layer in _layers_of(module) if layer]
    if pattern in layers:
        return f"names layer {pattern!r}, which has no weights; remove it"
    hint = did_you_mean(pattern, [*layers, *state])
    if hint.startswith("Known"):
        most = [name for name in layers if name.count(".") < _SHOWN_DEPTH] or [*state]
        more = ", ..." if len(most) > _SHOWN else ""
        hint = f"It has {', '.join(map(repr, most[:_SHOWN]))}{more}"
    return f"names {pattern!r}, but the model has no such weight or layer. {hint}"


def _layers_of(module: nn.Module) -> dict[str, nn.Module]:
    return dict(module.named_modules(remove_duplicate=False))


def _layer_of(name: str) -> str:
    return name.rpartition(".")[0]
