"""Nested values taken apart: a JSON skeleton and named tensors, bit for bit.

====================================  ==========================================================
value                                 its node in the skeleton
====================================  ==========================================================
None, bool, str, int of 64 bits       itself
finite float                          itself: the shortest decimal that reads back the same
other int                             ``{"int": "0x..."}``
NaN (its payload too), infinities     ``{"float": 16 hex digits of the IEEE double, big-endian}``
list                                  ``[node, ...]``
tuple                                 ``{"tuple": [node, ...]}``
dict of str or int keys               ``{"dict": [[key node, node], ...]}``, order kept
tensor                                ``{"tensor": name}``
tensor of a type safetensors lacks    ``{"tensor": name of its bytes, "dtype": ..., "shape": ...}``
Vector                                ``{"vector": [[name, tensor node], ...], "stacked": bool}``
OptimizerState, KeptState             ``{"record": class name, "fields": {field: node}}``
====================================  ==========================================================

What a skeleton can name is in the tables of this file; nothing is looked up by an import path.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from simfl.checkpoint.layout import DTYPES, view_bytes
from simfl.errors import CheckpointError
from simfl.optimizer import KeptState, OptimizerState
from simfl.vector import Vector

Path: TypeAlias = tuple[str, ...]
Node: TypeAlias = Any

RECORDS: Final[dict[str, type[Any]]] = {
    "KeptState": KeptState,
    "OptimizerState": OptimizerState,
}
"""The frozen dataclasses that can be stored, by the name they are stored under."""

_RAW_DTYPE_NAMES = (
    "complex32",
    "complex64",
    "complex128",
    "uint16",
    "uint32",
    "uint64",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
)
RAW_DTYPES: Final[dict[str, torch.dtype]] = {
    name: getattr(torch, name) for name in _RAW_DTYPE_NAMES if hasattr(torch, name)
}
"""Stored as bytes: not every version of safetensors has names for them."""

_INT_LIMIT = 2**63


def encode_tree(value: Any) -> tuple[Node, dict[str, Tensor]]:
    """Split a nested value into a skeleton of JSON values and its tensors.

    Args:
        value: dicts, lists, tuples, JSON scalars, tensors, Vectors and optimizer states.

    Returns:
        The skeleton, and name -> tensor: on the CPU, contiguous, of types in ``DTYPES``.
        Memory is shared with the value where it can be.

    Raises:
        CheckpointError: if it holds anything else; the message says where.

    >>> encode_tree({"round": 3, "loss": float("inf")})
    ({'dict': [['round', 3], ['loss', {'float': '7ff0000000000000'}]]}, {})
    """
    tensors: dict[str, Tensor] = {}
    try:
        return _encode(value, (), tensors), tensors
    except RecursionError:
        raise CheckpointError("a value that is nested too deeply cannot be stored") from None


def _encode(value: Any, path: Path, tensors: dict[str, Tensor]) -> Node:
    if isinstance(value, Tensor):
        return _encode_tensor(value, path, tensors)
    if value is None or type(value) in (bool, int, float, str):
        return _encode_scalar(value)
    encode = _ENCODERS.get(type(value))
    if encode is None:
        raise CheckpointError(
            f"{'/'.join(path) or 'the value'}: a {type(value).__name__} cannot be stored in a "
            "checkpoint; use dicts, lists, tuples, numbers, text, tensors and Vectors"
        )
    return encode(value, path, tensors)


def _encode_scalar(value: Any) -> Node:
    if type(value) is int and not -_INT_LIMIT <= value < _INT_LIMIT:
        return {"int": hex(value)}
    if type(value) is float and not math.isfinite(value):
        return {"float": struct.pack(">d", value).hex()}
    return value


def _encode_list(value: Iterable[Any], path: Path, tensors: dict[str, Tensor]) -> Node:
    return [_encode(item, (*path, str(i)), tensors) for i, item in enumerate(value)]


def _encode_tuple(value: tuple[Any, ...], path: Path, tensors: dict[str, Tensor]) -> Node:
    return {"tuple": _encode_list(value, path, tensors)}


def _encode_dict(value: dict[Any, Any], path: Path, tensors: dict[str, Tensor]) -> Node:
    for key in value:
        if type(key) not in (str, int):
            raise CheckpointError(
                f"{'/'.join(path) or 'the value'}: the key {key!r} cannot be stored in a "
                "checkpoint; use text or whole numbers"
            )
    pairs = [
        [_encode(key, path, tensors), _encode(item, (*path, _label(key)), tensors)]
        for key, item in value.items()
    ]
    return {"dict": pairs}


def _encode_vector(value: Vector, path: Path, tensors: dict[str, Tensor]) -> Node:
    pairs = [[n, _encode_tensor(tensor, (*path, n), tensors)] for n, tensor in value.items()]
    return {"vector": pairs, "stacked": value.stacked}


def _encode_record(value: Any, path: Path, tensors: dict[str, Tensor]) -> Node:
    names = [field.name for field in fields(value)]
    encoded = {name: _encode(getattr(value, name), (*path, name), tensors) for name in names}
    return {"record": type(value).__name__, "fields": encoded}


def _encode_tensor(tensor: Tensor, path: Path, tensors: dict[str, Tensor]) -> Node:
    name = _free_name(path, tensors)
    dtype = str(tensor.dtype).removeprefix("torch.")
    is_stored = tensor.dtype in DTYPES or dtype in RAW_DTYPES
    if not is_stored or tensor.layout != torch.strided or tensor.is_meta:
        raise CheckpointError(
            f"{'/'.join(path) or 'the value'}: a tensor of type {dtype}, layout {tensor.layout} "
            f"and device {tensor.device} cannot be stored in a checkpoint; make it dense numbers"
        )
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if plain.dtype in DTYPES:
        tensors[name] = plain
        return {"tensor": name}
    tensors[name] = view_bytes(plain)
    return {"tensor": name, "dtype": dtype, "shape": list(tensor.shape)}


def _free_name(path: Path, taken: Mapping[str, Tensor]) -> str:
    """Return a name for the eyes of people with other tools; the skeleton refers to it."""
    name = "/".join(path).encode("ascii", "backslashreplace").decode("ascii") or "value"
    while name in taken or name == "__metadata__":
        name += "+"
    return name


def _label(key: str | int) -> str:
    return key if isinstance(key, str) else hex(key) if abs(key) >= _INT_LIMIT else str(key)


_ENCODERS: Final[dict[type[Any], Callable[[Any, Path, dict[str, Tensor]], Node]]] = {
    list: _encode_list,
    tuple: _encode_tuple,
    dict: _encode_dict,
    Vector: _encode_vector,
    **dict.fromkeys(RECORDS.values(), _encode_record),
}
