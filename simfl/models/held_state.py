"""The state that a module holds besides its weights, which is reset between clients."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from simfl.models.dropout import Dropout
from simfl.vector import tensors_of

_OF_TORCH: Final = frozenset(vars(nn.Module()))
_PLAIN: Final = (bool, int, float, complex, str, bytes, type(None), np.generic)
_MISSING: Final = object()


class _Entry(NamedTuple):
    name: str
    place: dict[str, Any]
    key: str
    value: Any
    """The value when the module was built; a copy if it can be changed in place."""


class HeldState:
    """Non-persistent buffers of all layers, and attributes that are plain data.

    They are reset for each client to their values when the module was built. Plain data are
    numbers, text, tensors, arrays, and lists, tuples, sets and dicts of these. Tensors that share
    their memory with weights follow the weights. Objects of other types are ignored.

    Args:
        module: as it was built.
        weights: parameters and persistent buffers, by name.
    """

    def __init__(self, module: nn.Module, weights: Mapping[str, Tensor]) -> None:
        self._weights = {tensor.untyped_storage().data_ptr() for tensor in weights.values()}
        self._layers = [(name, layer, _num_keys(layer)) for name, layer in module.named_modules()]
        self._entries = [
            entry._replace(value=copy.deepcopy(_detached(entry.value)))
            for name, layer, _ in self._layers
            for entry in self._held_by(name, layer)
        ]

    def restore(self) -> None:
        """Reset everything that has changed."""
        for entry in self._differing():
            if entry.value is _MISSING:
                del entry.place[entry.key]
            else:
                entry.place[entry.key] = copy.deepcopy(entry.value)

    def changed(self) -> list[str]:
        """Return the names of everything that has changed."""
        return [entry.name for entry in self._differing()]

    def tensors(self) -> dict[str, Any]:
        """Return what holds tensors, by name: the values when the module was built."""
        entries = {entry.name: entry.value for entry in self._entries}
        return {name: value for name, value in entries.items() if _has_tensors(value)}

    def fill(self, values: Mapping[str, Any]) -> None:
        """Replace values by those of a module that was built in the same way."""
        for entry in self._entries:
            if entry.name in values:
                entry.place[entry.key] = copy.deepcopy(values[entry.name])

    def differing(self, other: HeldState) -> list[str]:
        """Return the names of what has another value in a second module built in the same way."""
        ours, theirs = ({e.name: e.value for e in state._entries} for state in (self, other))
        return [name for name in ours if not _same(ours[name], theirs.get(name, _MISSING))]

    def _differing(self) -> list[_Entry]:
        differing = [
            entry
            for entry in self._entries
            if (now := entry.place.get(entry.key, _MISSING)) is not entry.value
            and not _same(now, entry.value)
        ]
        grown = [(name, layer) for name, layer, size in self._layers if _num_keys(layer) > size]
        if not grown:
            return differing
        known = {(id(entry.place), entry.key) for entry in self._entries}
        new = [
            entry._replace(value=_MISSING)
            for name, layer in grown
            for entry in self._held_by(name, layer)
            if (id(entry.place), entry.key) not in known
        ]
        return differing + new

    def _held_by(self, name: str, layer: nn.Module) -> Iterator[_Entry]:
        prefix = f"{name}." if name else ""
        for key in layer._non_persistent_buffers_set & layer._buffers.keys():
            # The key of simfl's dropout is set before each step.
            if not isinstance(layer, Dropout):
                yield _Entry(prefix + key, layer._buffers, key, layer._buffers[key])
        for key, value in vars(layer).items():
            if key not in _OF_TORCH and self._is_data(value):
                yield _Entry(prefix + key, vars(layer), key, value)

    def _is_data(self, value: Any) -> bool:
        if isinstance(value, Tensor):
            try:
                is_own = value.untyped_storage().data_ptr() not in self._weights
            except RuntimeError:  # vmap has left it behind, and it cannot be read
                return True
            return type(value) is Tensor and is_own and not value.requires_grad
        if isinstance(value, np.ndarray):
            return bool(value.dtype != object)
        if type(value) is dict:
            return all(map(self._is_data, value.values()))
        if type(value) in (list, tuple, torch.Size, set, deque):
            return all(map(self._is_data, value))
        return isinstance(value, _PLAIN)


def _has_tensors(value: Any) -> bool:
    return next(iter(tensors_of(value)), None) is not None


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _num_keys(layer: nn.Module) -> int:
    return len(vars(layer)) + len(layer._buffers)


def _same(a: Any, b: Any) -> bool:
    if a is b:  # mutable values are compared with a copy
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        try:
            return a.dtype == b.dtype and torch.equal(a, b)
        except RuntimeError:  # a tensor left behind by vmap cannot be read
            return False
    if isinstance(a, np.ndarray):
        return bool(np.array_equal(a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple | deque):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)
