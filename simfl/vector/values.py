"""Functions of values that hold Vectors and tensors, in tuples, lists, dicts and dataclasses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from simfl.vector.keyed import Keyed
from simfl.vector.vector import Vector

T = TypeVar("T")

_HALF: Final = frozenset({torch.float16, torch.bfloat16})


def widened(tensor: Tensor) -> Tensor:
    """Return float16 and bfloat16 tensors as float32, and others as they are."""
    return tensor.float() if tensor.dtype in _HALF else tensor


def move(value: T, device: torch.device | str) -> T:
    """Return the value with every Vector and tensor in it on a device; the rest as it is."""
    moved: T = map_leaves(value, lambda leaf: leaf.to(device))
    return moved


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor on a device, without a wait for the work that a GPU has been given.

    A copy from pageable memory would wait for it, and then the GPU for the next kernels. torch
    keeps the pinned memory until the copy is done
    (https://docs.pytorch.org/tutorials/intermediate/pinmem_nonblock.html).
    """
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def map_leaves(
    value: Any, function: Callable[[Any], Any], kinds: tuple[type, ...] = (Vector, Tensor)
) -> Any:
    """Return a value with a function applied to every Vector and tensor in it; the rest as it is.

    Args:
        value: any; tuples, lists, dicts and dataclasses are looked into.
        function: of a leaf.
        kinds: what is a leaf.
    """

    def mapped(value: Any) -> Any:
        if isinstance(value, kinds):
            return function(value)
        if isinstance(value, Keyed):
            return Keyed(value.keys, function(value.values))
        if isinstance(value, dict):
            return {key: mapped(item) for key, item in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_make"):  # a NamedTuple
            return value._make(mapped(item) for item in value)
        if isinstance(value, list | tuple):
            return type(value)(mapped(item) for item in value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = [field.name for field in dataclasses.fields(value)]
            return dataclasses.replace(value, **{f: mapped(getattr(value, f)) for f in fields})
        return value

    return mapped(value)


def count_bytes(value: Any) -> int:
    """Return how many bytes the tensors in a value take."""
    return sum(v.num_bytes if isinstance(v, Vector) else v.nbytes for v in _leaves(value))


def find_vectors(value: Any) -> list[Vector]:
    """Return the Vectors in a value."""
    return [leaf for leaf in _leaves(value) if isinstance(leaf, Vector)]


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Iterate over all tensors in a value, those of its Vectors included."""
    for leaf in _leaves(value):
        yield from leaf.tensors if isinstance(leaf, Vector) else (leaf,)


def rows_of(value: T, rows: slice | Tensor) -> T:
    """Return a value with some rows of every stacked Vector and of every tensor that is not 0-d.

    All else in it is the same for all clients of a stack, and stays as it is.

    Args:
        value: Vectors, tensors and others, in tuples and dicts.
        rows: a slice, which gives views, or indices, which give copies.
    """
    taken: T = _rows(value, rows)
    return taken


def is_finite(value: Any) -> Tensor:
    """Return whether a number, a tensor or a Vector has no NaN or infinity: 0-d, or [C] by rows.

    Rows are those of a stack, or of a tensor that is not 0-d.
    """
    if isinstance(value, Vector | Keyed):
        return (value.values if isinstance(value, Keyed) else value).is_finite()
    if isinstance(value, Tensor):
        finite = value.isfinite()
        return finite.reshape(len(value), -1).all(dim=1) if value.dim() else finite
    return torch.tensor(isinstance(value, int) or math.isfinite(value))


def _leaves(value: Any) -> Iterator[Vector | Tensor]:
    if isinstance(value, Vector | Tensor):
        yield value
    elif isinstance(value, Keyed):
        yield value.values
    elif isinstance(value, Mapping):
        yield from chain.from_iterable(map(_leaves, value.values()))
    elif isinstance(value, list | tuple):
        yield from chain.from_iterable(map(_leaves, value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _leaves(getattr(value, field.name))


def _rows(value: Any, rows: slice | Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[rows] if value.dim() else value
    if isinstance(value, Vector):
        return value.rows(rows) if value.stacked else value
    if isinstance(value, tuple):
        return tuple(_rows(item, rows) for item in value)
    if isinstance(value, Mapping):
        return {key: _rows(item, rows) for key, item in value.items()}
    return value
