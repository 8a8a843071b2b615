"""The safetensors format: a length, a JSON header, and the tensors' memory one after the other.

Written here rather than by the safetensors package because a checkpoint's tensors are hashed and
written piece by piece, with no second copy in memory, and one client's part of a file is read with
no more than its header. Any safetensors reader opens these files.

Source: https://github.com/huggingface/safetensors, "Format"
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from simfl.errors import CheckpointError

Piece: TypeAlias = "bytes | memoryview"
"""Bytes of a file, written in order."""

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
"""The types that every version of the format has a name for."""

_TORCH_DTYPES: Final = {name: dtype for dtype, name in DTYPES.items()}
_METADATA = "__metadata__"
_MAX_HEADER = 100_000_000  # what other readers accept at most


@dataclass(frozen=True)
class Region:
    """Where a tensor lies in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """The first byte, counted from the start of the file."""
    stop: int
    """The byte after the last."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself."""

    metadata: dict[str, str]
    regions: dict[str, Region]
    num_bytes: int
    """The size that the whole file has if it is whole."""


def view_bytes(tensor: Tensor) -> Tensor:
    """View the memory of a contiguous tensor as bytes: uint8, one axis."""
    # A single number counts as contiguous with any stride, and then cannot be viewed as bytes.
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)


def build_header(
    described: Mapping[str, tuple[torch.dtype, Sequence[int]]], metadata: Mapping[str, str]
) -> bytes:
    """Return the bytes that come before the tensors.

    Args:
        described: name -> (type, shape), in the order in which the memory follows.
        metadata: text by name.

    Raises:
        CheckpointError: if other readers would find it too long.
    """
    header: dict[str, Any] = {_METADATA: dict(metadata)}
    end = 0
    for name, (dtype, shape) in described.items():
        start, end = end, end + _num_bytes(dtype, shape)
        header[name] = {
            "dtype": DTYPES[dtype],
            "shape": list(shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)  # so that the tensors' memory is aligned
    if len(text) > _MAX_HEADER:
        raise CheckpointError(f"a header of {len(text)} bytes is too long; write fewer clients")
    return struct.pack("<Q", len(text)) + text


def header_length(start: bytes) -> int:
    """Return how long length and header are together, from the first 8 bytes of a file.

    Raises:
        CheckpointError: if these are not the first bytes of a safetensors file.
    """
    if len(start) < 8:
        raise CheckpointError("it is cut off")
    (length,) = struct.unpack("<Q", start[:8])
    if length > _MAX_HEADER:
        raise CheckpointError("it is not a safetensors file")
    return 8 + int(length)


def parse_header(head: bytes) -> Header:
    """Read a header: the tensors' memory need not follow.

    Raises:
        CheckpointError: if it is cut off, or its tensors are not of known types and one after the
            other without gaps.
    """
    end = header_length(head)
    if len(head) < end:
        raise CheckpointError("it is cut off")
    try:
        header = json.loads(head[8:end].decode("ascii"), parse_constant=_refuse_constant)
        metadata = header.pop(_METADATA, {})
        regions = {name: _parse_region(entry, end) for name, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise CheckpointError("its header is not that of a safetensors file") from None
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError("its metadata are not text")
    return Header(metadata, regions, _require_no_gaps(regions, end))


def _parse_region(entry: dict[str, Any], offset: int) -> Region:
    dtype, shape = _TORCH_DTYPES[entry["dtype"]], tuple(entry["shape"])
    start, stop = entry["data_offsets"]
    if any(type(number) is not int or number < 0 for number in (*shape, start, stop)):
        raise ValueError("shapes and offsets are whole numbers")
    if stop - start != _num_bytes(dtype, shape):
        raise ValueError("a tensor's memory and its shape do not fit")
    return Region(dtype, shape, offset + start, offset + stop)


def _require_no_gaps(regions: Mapping[str, Region], offset: int) -> int:
    """Return where the last tensor ends."""
    for region in sorted(regions.values(), key=lambda region: (region.start, region.stop)):
        if region.start != offset:
            raise CheckpointError("its tensors overlap, or leave gaps")
        offset = region.stop
    return offset


def _num_bytes(dtype: torch.dtype, shape: Sequence[int]) -> int:
    return math.prod(shape) * dtype.itemsize


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
