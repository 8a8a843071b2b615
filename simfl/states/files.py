"""One file, one value: safetensors whose metadata hold the skeleton of what the tensors are in.

The safetensors format is a length, a JSON header, and the tensors' memory one after the other. It
is written here rather than by the safetensors package because a checkpoint's tensors are hashed
and written piece by piece, with no second copy in memory, and one client's part of a file is read
with no more than its header. Any safetensors reader opens these files.

Source: https://github.com/huggingface/safetensors, "Format"
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from simfl.errors import CheckpointError
from simfl.states.codec import DTYPES, decode_tree, encode_tree, tensor_from, view_bytes

Piece: TypeAlias = "bytes | memoryview"
"""Bytes of a file, written in order."""

METADATA_KEY = "simfl"
"""The entry of a file's metadata that is ours."""

_TORCH_DTYPES: Final = {name: dtype for dtype, name in DTYPES.items()}
_METADATA = "__metadata__"
_MAX_HEADER = 100_000_000  # what other readers accept at most


@dataclass(frozen=True)
class Checksum:
    """Identifies a file's contents."""

    sha256: str
    """In hex digits."""
    num_bytes: int

    @classmethod
    def of(cls, pieces: Iterable[Piece]) -> Checksum:
        """Return the checksum of consecutive pieces.

        >>> Checksum.of([b"ab", b"c"]) == Checksum.of([b"abc"])
        True
        """
        digest, num_bytes = hashlib.sha256(), 0
        for piece in pieces:
            digest.update(piece)
            num_bytes += len(piece)
        return cls(digest.hexdigest(), num_bytes)


@dataclass(frozen=True)
class Region:
    """Where a tensor is in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """The first byte, counted from the start of the file."""
    stop: int
    """The byte after the last."""


@dataclass(frozen=True)
class Header:
    """A file's description of itself."""

    metadata: dict[str, str]
    regions: dict[str, Region]
    num_bytes: int
    """The size of the file if it is whole."""


def encode_file(value: Any) -> bytes:
    """Return a value as the bytes of a safetensors file; the same value gives the same bytes.

    Raises:
        CheckpointError: if the value holds what cannot be stored.
    """
    return b"".join(encode_pieces(value))


def encode_pieces(value: Any) -> list[Piece]:
    """Return what ``encode_file`` does, in pieces that share the memory of the value's tensors."""
    skeleton, found = encode_tree(value)
    # Wide types first: each tensor is then aligned, and a reader need not copy it.
    tensors = dict(sorted(found.items(), key=lambda item: -item[1].element_size()))
    described = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    metadata = {METADATA_KEY: _dump(skeleton)}
    return [build_header(described, metadata), *map(_memory, tensors.values())]


def decode_file(data: bytes, *, name: str = "the file") -> Any:
    """Return the value that ``encode_file`` was given; its tensors have memory of their own.

    Args:
        data: the file's bytes.
        name: the file's, for messages.

    Raises:
        CheckpointError: if the bytes are truncated, damaged, or not those of a file by simfl.
    """
    try:
        header = parse_header(data)
        if header.num_bytes != len(data):
            raise CheckpointError(f"it has {len(data)} bytes instead of {header.num_bytes}")
        return decode_tree(_parse_skeleton(header.metadata), _read_all(data, header.regions))
    except CheckpointError as error:
        raise CheckpointError(f"{name} is damaged, or was not written by simfl: {error}") from None


def _dump(skeleton: Any) -> str:
    try:
        return json.dumps(skeleton, separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise CheckpointError("a value that is nested too deeply cannot be stored") from None


def _parse_skeleton(metadata: Mapping[str, str]) -> Any:
    if METADATA_KEY not in metadata:
        raise CheckpointError(f"its metadata lack {METADATA_KEY!r}")
    try:
        return json.loads(metadata[METADATA_KEY])
    except (ValueError, RecursionError):
        raise CheckpointError("its skeleton is not JSON") from None


def _read_all(data: bytes, regions: Mapping[str, Region]) -> dict[str, Tensor]:
    view = memoryview(data)
    return {
        name: tensor_from(bytearray(view[region.start : region.stop]), region.dtype, region.shape)
        for name, region in regions.items()
    }


def _memory(tensor: Tensor) -> memoryview:
    array: Any = view_bytes(tensor).numpy()
    return memoryview(array)


def build_header(
    described: Mapping[str, tuple[torch.dtype, Sequence[int]]], metadata: Mapping[str, str]
) -> bytes:
    """Return the bytes that come before the tensors.

    Args:
        described: name -> (type, shape), in the order of the memory.
        metadata: text by name.

    Raises:
        CheckpointError: if it is longer than other readers accept.
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
    """Return the length of the header, including the length's own 8 bytes.

    Args:
        start: at least the first 8 bytes of a file.

    Raises:
        CheckpointError: if these are not the first bytes of a safetensors file.
    """
    if len(start) < 8:
        raise CheckpointError("it is truncated")
    (length,) = struct.unpack("<Q", start[:8])
    if length > _MAX_HEADER:
        raise CheckpointError("it is not a safetensors file")
    return 8 + int(length)


def parse_header(head: bytes) -> Header:
    """Read a header; the tensors' memory need not follow.

    Raises:
        CheckpointError: if it is truncated, or its tensors are of unknown types, overlap or leave
            gaps.
    """
    end = header_length(head)
    if len(head) < end:
        raise CheckpointError("it is truncated")
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
        raise ValueError("a tensor's memory and its shape do not match")
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
    raise ValueError(f"{name} is not JSON")
