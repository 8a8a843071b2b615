"""Nested values put together again from what ``encode_tree`` made of them.

Whatever the skeleton holds, only the kinds of ``encoding`` come out of it, and no code is run.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Final

import torch
from torch import Tensor

from simfl.checkpoint.encoding import RAW_DTYPES, RECORDS
from simfl.errors import CheckpointError
from simfl.vector import Vector

_MALFORMED = (
    AttributeError,
    KeyError,
    OverflowError,
    RuntimeError,  # torch's, where memory and shape do not fit, and RecursionError
    TypeError,
    ValueError,
    struct.error,
)


def decode_tree(skeleton: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the value that ``encode_tree`` was given.

    Raises:
        CheckpointError: if the skeleton holds a node of unknown kind, or one that is malformed.
    """
    try:
        return _decode(skeleton, tensors)
    except _MALFORMED as error:
        raise CheckpointError(f"malformed node: {_short(error)}") from None


def _decode(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    if node is None or isinstance(node, bool | int | float | str):
        return node
    if isinstance(node, list):
        return [_decode(item, tensors) for item in node]
    decode = _DECODERS.get(frozenset(node)) if isinstance(node, dict) else None
    if decode is None:
        raise CheckpointError(f"unknown kind of node: {_short(node)}")
    return decode(node, tensors)


def _decode_int(node: dict[str, Any], _: Mapping[str, Tensor]) -> int:
    return int(node["int"], 16)


def _decode_float(node: dict[str, Any], _: Mapping[str, Tensor]) -> float:
    (number,) = struct.unpack(">d", bytes.fromhex(node["float"]))
    return float(number)


def _decode_tuple(node: dict[str, Any], tensors: Mapping[str, Tensor]) -> tuple[Any, ...]:
    return tuple(_decode(item, tensors) for item in _list(node["tuple"]))


def _decode_dict(node: dict[str, Any], tensors: Mapping[str, Tensor]) -> dict[Any, Any]:
    pairs = [(_decode(key, tensors), _decode(item, tensors)) for key, item in _list(node["dict"])]
    decoded = dict(pairs)
    if len(decoded) != len(pairs) or any(type(key) not in (str, int) for key in decoded):
        raise ValueError("a key that is neither text nor a whole number, or twice the same")
    return decoded


def _decode_vector(node: dict[str, Any], tensors: Mapping[str, Tensor]) -> Vector:
    pairs = [(name, _decode(item, tensors)) for name, item in _list(node["vector"])]
    stacked = node["stacked"]
    decoded = dict(pairs)
    well_typed = all(isinstance(n, str) and isinstance(t, Tensor) for n, t in pairs)
    if not well_typed or len(decoded) != len(pairs) or not isinstance(stacked, bool):
        raise ValueError("a Vector that does not map names to tensors")
    return Vector(decoded, stacked=stacked)


def _decode_record(node: dict[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    record = RECORDS.get(node["record"])
    if record is None:
        raise ValueError(f"no record named {_short(node['record'])}")
    types = {field.name: field.type for field in fields(record)}
    decoded = {name: _decode(item, tensors) for name, item in node["fields"].items()}
    if decoded.keys() != types.keys():
        raise ValueError(f"{record.__name__} with the fields {_short(sorted(decoded))}")
    for name, value in decoded.items():
        is_right = type(value) is int if types[name] == "int" else _are_states(value)
        if not is_right:
            raise ValueError(f"{record.__name__}.{name} is {_short(value)}")
    return record(**decoded)


def _are_states(value: Any) -> bool:
    return type(value) is tuple and all(type(state) is dict for state in value)


def _decode_tensor(node: dict[str, Any], tensors: Mapping[str, Tensor]) -> Tensor:
    return tensors[node["tensor"]]


def _decode_raw_tensor(node: dict[str, Any], tensors: Mapping[str, Tensor]) -> Tensor:
    dtype, shape = RAW_DTYPES[node["dtype"]], node["shape"]
    raw = tensors[node["tensor"]]
    if not raw.numel():
        return torch.empty(shape, dtype=dtype)
    return raw.view(dtype).reshape(shape)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{_short(value)} where a list belongs")
    return value


def _short(value: object) -> str:
    text = str(value) if isinstance(value, Exception) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


_DECODERS: Final[dict[frozenset[str], Callable[[dict[str, Any], Mapping[str, Tensor]], Any]]] = {
    frozenset({"int"}): _decode_int,
    frozenset({"float"}): _decode_float,
    frozenset({"tuple"}): _decode_tuple,
    frozenset({"dict"}): _decode_dict,
    frozenset({"tensor"}): _decode_tensor,
    frozenset({"tensor", "dtype", "shape"}): _decode_raw_tensor,
    frozenset({"vector", "stacked"}): _decode_vector,
    frozenset({"record", "fields"}): _decode_record,
}
