"""One file, one value: safetensors whose metadata hold the skeleton of what the tensors are in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from simfl.checkpoint.decoding import decode_tree
from simfl.checkpoint.encoding import encode_tree
from simfl.checkpoint.layout import Piece, Region, build_header, parse_header, view_bytes
from simfl.errors import CheckpointError

METADATA_KEY = "simfl"
"""The entry of a file's metadata that is ours."""


def encode_file(value: Any) -> bytes:
    """Return a value as the bytes of a safetensors file; the same value gives the same bytes.

    Raises:
        CheckpointError: if the value holds what cannot be stored.
    """
    return b"".join(encode_pieces(value))


def encode_pieces(value: Any) -> list[Piece]:
    """Return what ``encode_file`` does, in pieces that share the memory of the value's tensors."""
    skeleton, found = encode_tree(value)
    # Wide types first: each tensor then lies where a reader may use it without a copy.
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
        CheckpointError: if the bytes are cut off, damaged, or not of a file that simfl wrote.
    """
    try:
        header = parse_header(data)
        if header.num_bytes != len(data):
            raise CheckpointError(f"it has {len(data)} bytes instead of {header.num_bytes}")
        return decode_tree(_parse_skeleton(header.metadata), _read_all(data, header.regions))
    except CheckpointError as error:
        raise CheckpointError(f"{name} is damaged, or no file of simfl's: {error}") from None


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
        raise CheckpointError("its skeleton is no JSON") from None


def _read_all(data: bytes, regions: Mapping[str, Region]) -> dict[str, Tensor]:
    view = memoryview(data)
    return {
        name: _tensor(bytearray(view[region.start : region.stop]), region)
        for name, region in regions.items()
    }


def _tensor(memory: bytearray, region: Region) -> Tensor:
    if not memory:
        return torch.empty(region.shape, dtype=region.dtype)
    return torch.frombuffer(memory, dtype=region.dtype).reshape(region.shape)


def _memory(tensor: Tensor) -> memoryview:
    array: Any = view_bytes(tensor).numpy()
    return memoryview(array)
