"""Tensors as memory: bytes and arrays, with or without a copy."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

Bytes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
"""A tensor's memory, flat."""

Described: TypeAlias = "list[tuple[str, torch.dtype, torch.Size]]"
"""Name, dtype and shape of each tensor."""

with warnings.catch_warnings(action="ignore"):
    # torch knows no read-only memory, and warns of it once a process: now. It would write through;
    # that is why a Vector on such memory is ``read_only``.
    torch.frombuffer(b"0", dtype=torch.uint8)


def raw(tensor: Tensor) -> Bytes:
    """Return the memory of a tensor; a copy unless it is on the CPU and contiguous."""
    # A single number counts as contiguous with any stride, and then cannot be viewed as bytes.
    flat = tensor.detach().cpu().contiguous().as_strided((tensor.numel(),), (1,))
    array: Bytes = flat.view(torch.uint8).numpy()
    return array


def own(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the array, or a copy of one that is read-only: torch would write through it."""
    return array if array.flags.writeable else array.copy()


def tensors_on(described: Described, memory: Iterable[Bytes]) -> dict[str, Tensor]:
    """Return tensors on this memory by name, without a copy; read-only memory must only be read."""
    tensors = {}
    for (name, dtype, shape), array in zip(described, memory, strict=True):
        has_numbers = math.prod(shape) > 0
        flat = torch.frombuffer(array, dtype=dtype) if has_numbers else torch.empty(0, dtype=dtype)
        tensors[name] = flat.reshape(shape)
    return tensors


def to_array(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Return a tensor on the CPU as an array; bfloat16 as float32, since numpy has none."""
    array: np.ndarray[Any, Any]
    array = (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
    return array
