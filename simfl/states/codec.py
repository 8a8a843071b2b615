"""One codec for nested values: a JSON skeleton and named tensors, bit for bit.

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

A skeleton can name only what is in the tables of this file; nothing is looked up by an import
path, and decoding runs no code, whatever the skeleton holds.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from simfl.errors import CheckpointError
from simfl.states.kept import KeptState, OptimizerState
from simfl.vector import Vector

Path: TypeAlias = tuple[str, ...]
Node: TypeAlias = Any
Tensors: TypeAlias = Mapping[str, Tensor]

RECORDS: Final[dict[str, type[Any]]] = {
    "KeptState": KeptState,
    "OptimizerState": OptimizerState,
}
"""The frozen dataclasses that can be stored, by the name they are stored under."""

_OPTIONAL: Final[dict[type[Any], dict[str, Any]]] = {
    KeptState: {"phases": {}, "algorithm": {}, "personal": None, "transforms": ()},
}
"""The fields that are stored only where they differ from these defaults."""

DTYPES: Final[dict[torch.dtype, str]] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The types that every version of the safetensors format has a name for."""

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
_RAW_DTYPES: Final[dict[str, torch.dtype]] = {
    name: getattr(torch, name) for name in _RAW_DTYPE_NAMES if hasattr(torch, name)
}
"""Stored as bytes: not every version of safetensors has names for them."""

_INT_LIMIT = 2**63
_MALFORMED = (
    AttributeError,
    KeyError,
    OverflowError,
    RuntimeError,  # torch's, where memory and shape do not match, and RecursionError
    TypeError,
    ValueError,
    struct.error,
)


# -- tensors and their memory ----------------------------------------------------------------


def view_bytes(tensor: Tensor) -> Tensor:
    """View the memory of a contiguous tensor as bytes: uint8, one axis."""
    # A single number counts as contiguous with any stride, and then cannot be viewed as bytes.
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)


def tensor_from(memory: bytearray, dtype: torch.dtype, shape: Iterable[int]) -> Tensor:
    """Return the tensor whose memory this is; it is not copied."""
    if not memory:
        return torch.empty(tuple(shape), dtype=dtype)
    return torch.frombuffer(memory, dtype=torch.uint8).view(dtype).reshape(tuple(shape))


# -- encoding --------------------------------------------------------------------------------


def encode_tree(value: Any) -> tuple[Node, dict[str, Tensor]]:
    """Split a nested value into a skeleton of JSON values and its tensors.

    Args:
        value: dicts, lists, tuples, JSON scalars, tensors, Vectors and optimizer states.

    Returns:
        The skeleton, and name -> tensor: on the CPU, contiguous, of types in ``DTYPES``.
        Memory is shared with the value where possible.

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
    encode = _ENCODERS.get(type(value))
    if encode is None:
        raise CheckpointError(
            f"{_place(path)}: a {type(value).__name__} cannot be stored in a "
            "checkpoint; use dicts, lists, tuples, numbers, text, tensors and Vectors"
        )
    return encode(value, path, tensors)


def _encode_int(value: int, *_: object) -> Node:
    return value if -_INT_LIMIT <= value < _INT_LIMIT else {"int": hex(value)}


def _encode_float(value: float, *_: object) -> Node:
    return value if math.isfinite(value) else {"float": struct.pack(">d", value).hex()}


def _encode_list(value: Iterable[Any], path: Path, tensors: dict[str, Tensor]) -> Node:
    return [_encode(item, (*path, str(i)), tensors) for i, item in enumerate(value)]


def _encode_tuple(value: tuple[Any, ...], path: Path, tensors: dict[str, Tensor]) -> Node:
    return {"tuple": _encode_list(value, path, tensors)}


def _encode_dict(value: dict[Any, Any], path: Path, tensors: dict[str, Tensor]) -> Node:
    pairs = []
    for key, item in value.items():
        if type(key) not in (str, int):
            raise CheckpointError(
                f"{_place(path)}: the key {key!r} cannot be stored in a "
                "checkpoint; use text or whole numbers"
            )
        # Python prints only short integers in decimal.
        label = hex(key) if type(key) is int and abs(key) >= _INT_LIMIT else str(key)
        pairs.append([_encode(key, path, tensors), _encode(item, (*path, label), tensors)])
    return {"dict": pairs}


def _encode_vector(value: Vector, path: Path, tensors: dict[str, Tensor]) -> Node:
    pairs = [[n, _encode_tensor(tensor, (*path, n), tensors)] for n, tensor in value.items()]
    return {"vector": pairs, "stacked": value.stacked}


def _encode_record(value: Any, path: Path, tensors: dict[str, Tensor]) -> Node:
    kept = {f.name: getattr(value, f.name) for f in fields(value)}
    optional = _optional_fields(type(value))
    encoded = {
        name: _encode(item, (*path, name), tensors)
        for name, item in kept.items()
        if name not in optional or item != optional[name]
    }
    return {"record": type(value).__name__, "fields": encoded}


def _encode_tensor(tensor: Tensor, path: Path, tensors: dict[str, Tensor]) -> Node:
    dtype = str(tensor.dtype).removeprefix("torch.")
    is_storable = tensor.dtype in DTYPES or dtype in _RAW_DTYPES
    if not is_storable or tensor.layout != torch.strided or tensor.is_meta:
        raise CheckpointError(
            f"{_place(path)}: a tensor of type {dtype}, layout {tensor.layout} "
            f"and device {tensor.device} cannot be stored in a checkpoint; make it dense numbers"
        )
    # A name that people can read with other tools; the skeleton refers to it.
    name = "/".join(path).encode("ascii", "backslashreplace").decode("ascii") or "value"
    while name in tensors or name == "__metadata__":
        name += "+"
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if plain.dtype in DTYPES:
        tensors[name] = plain
        return {"tensor": name}
    tensors[name] = view_bytes(plain)
    return {"tensor": name, "dtype": dtype, "shape": list(tensor.shape)}


def _place(path: Path) -> str:
    return "/".join(path) or "the value"


_ENCODERS: Final[dict[type[Any], Callable[[Any, Path, dict[str, Tensor]], Node]]] = {
    **dict.fromkeys((type(None), bool, str), lambda value, *_: value),
    int: _encode_int,
    float: _encode_float,
    list: _encode_list,
    tuple: _encode_tuple,
    dict: _encode_dict,
    Vector: _encode_vector,
    **dict.fromkeys(RECORDS.values(), _encode_record),
}


# -- decoding --------------------------------------------------------------------------------


def decode_tree(skeleton: Node, tensors: Tensors) -> Any:
    """Return the value that ``encode_tree`` was given.

    Raises:
        CheckpointError: if the skeleton holds a node of unknown kind, or one that is malformed.
    """
    try:
        return _decode(skeleton, tensors)
    except _MALFORMED as error:
        raise CheckpointError(f"malformed node: {_short(error)}") from None


def _decode(node: Node, tensors: Tensors) -> Any:
    if node is None or isinstance(node, bool | int | float | str):
        return node
    if isinstance(node, list):
        return [_decode(item, tensors) for item in node]
    decode = _DECODERS.get(frozenset(node)) if isinstance(node, dict) else None
    if decode is None:
        raise CheckpointError(f"unknown kind of node: {_short(node)}")
    return decode(node, tensors)


def _decode_int(node: dict[str, Any], _: Tensors) -> int:
    return int(node["int"], 16)


def _decode_float(node: dict[str, Any], _: Tensors) -> float:
    (number,) = struct.unpack(">d", bytes.fromhex(node["float"]))
    return float(number)


def _decode_tuple(node: dict[str, Any], tensors: Tensors) -> tuple[Any, ...]:
    return tuple(_decode(item, tensors) for item in _list(node["tuple"]))


def _decode_dict(node: dict[str, Any], tensors: Tensors) -> dict[Any, Any]:
    pairs = [(_decode(key, tensors), _decode(item, tensors)) for key, item in _list(node["dict"])]
    decoded = dict(pairs)
    if len(decoded) != len(pairs) or any(type(key) not in (str, int) for key in decoded):
        raise ValueError("a key that is neither text nor a whole number, or twice the same")
    return decoded


def _decode_vector(node: dict[str, Any], tensors: Tensors) -> Vector:
    pairs = [(name, _decode(item, tensors)) for name, item in _list(node["vector"])]
    stacked = node["stacked"]
    decoded = dict(pairs)
    well_typed = all(isinstance(n, str) and isinstance(t, Tensor) for n, t in pairs)
    if not well_typed or len(decoded) != len(pairs) or not isinstance(stacked, bool):
        raise ValueError("a Vector that does not map names to tensors")
    return Vector(decoded, stacked=stacked)


def _decode_record(node: dict[str, Any], tensors: Tensors) -> Any:
    record = RECORDS.get(node["record"])
    if record is None:
        raise ValueError(f"no record named {_short(node['record'])}")
    types = {field.name: str(field.type) for field in fields(record)}
    decoded = {name: _decode(item, tensors) for name, item in node["fields"].items()}
    if not types.keys() - _optional_fields(record) <= decoded.keys() <= types.keys():
        raise ValueError(f"{record.__name__} with the fields {_short(sorted(decoded))}")
    for name, value in decoded.items():
        if not _FIELD_TYPES[types[name]](value):
            raise ValueError(f"{record.__name__}.{name} is {_short(value)}")
    return record(**decoded)


def _are_states(value: Any) -> bool:
    return type(value) is tuple and all(type(state) is dict for state in value)


_FIELD_TYPES: Final[dict[str, Callable[[Any], bool]]] = {
    "int": lambda value: type(value) is int,
    "tuple[State, ...]": _are_states,
    "State": lambda value: type(value) is dict,
    "dict[str, KeptState]": lambda value: (
        type(value) is dict and all(isinstance(state, KeptState) for state in value.values())
    ),
    "Vector | None": lambda value: value is None or isinstance(value, Vector),
}
"""Checks a decoded value, by the annotation of its field."""


def _optional_fields(record: type[Any]) -> dict[str, Any]:
    """Return the fields that are stored only if they differ from their default."""
    return _OPTIONAL.get(record, {})


def _decode_tensor(node: dict[str, Any], tensors: Tensors) -> Tensor:
    return tensors[node["tensor"]]


def _decode_raw_tensor(node: dict[str, Any], tensors: Tensors) -> Tensor:
    dtype, shape = _RAW_DTYPES[node["dtype"]], node["shape"]
    raw = tensors[node["tensor"]]
    return raw.view(dtype).reshape(shape) if raw.numel() else torch.empty(shape, dtype=dtype)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{_short(value)} instead of a list")
    return value


def _short(value: object) -> str:
    text = str(value) if isinstance(value, Exception) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


_DECODERS: Final[dict[frozenset[str], Callable[[dict[str, Any], Tensors], Any]]] = {
    frozenset({"int"}): _decode_int,
    frozenset({"float"}): _decode_float,
    frozenset({"tuple"}): _decode_tuple,
    frozenset({"dict"}): _decode_dict,
    frozenset({"tensor"}): _decode_tensor,
    frozenset({"tensor", "dtype", "shape"}): _decode_raw_tensor,
    frozenset({"vector", "stacked"}): _decode_vector,
    frozenset({"record", "fields"}): _decode_record,
}
