"""Clients' states in shards: a file holds those of many clients, and each can be read alone.

A shard is a safetensors file with one tensor of bytes per client, named by its id: the client's
own file as ``encode_file`` makes it, of the tuple (id, state). The metadata hold each one's sha256.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from simfl.errors import CheckpointError
from simfl.states.files import (
    METADATA_KEY,
    Checksum,
    Header,
    Piece,
    Region,
    build_header,
    decode_file,
    encode_pieces,
    header_length,
    parse_header,
)
from simfl.states.kept import KeptState
from simfl.states.local_storage import LocalStorage
from simfl.states.storage import Storage, open_storage

STATES_FOLDER = "states"
_SUFFIX = ".safetensors"
_FIRST_READ = 1 << 16
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class ShardInfo:
    """What a shard holds, and how to check that it is whole."""

    name: str
    """Chosen by its writer."""
    checksum: Checksum
    """Of the whole file."""
    clients: tuple[int, ...]
    """The ids of the clients whose states it holds, in the file's order."""


@dataclass(frozen=True)
class StateFile:
    """Refers to a client's state in a shard; small, and can be pickled."""

    location: str
    """The storage's, as ``open_storage`` takes it."""
    shard: str
    """The shard's name."""
    client: int
    """The client's id."""

    @property
    def is_local(self) -> bool:
        """Whether it is a file on this machine, which other nodes may not see."""
        return isinstance(open_storage(self.location), LocalStorage)


def shard_file(name: str) -> str:
    """Return the file of a shard within the storage.

    >>> shard_file("round-7-a")
    'states/round-7-a.safetensors'
    """
    if not _NAME.fullmatch(name):
        raise CheckpointError(
            f"{name!r} is not a valid name of a shard; use letters, digits, '-', '_', '.'"
        )
    return f"{STATES_FOLDER}/{name}{_SUFFIX}"


def write_shard(
    storage: Storage, name: str, states: Mapping[int, KeptState | StateFile]
) -> ShardInfo:
    """Write clients' states as one shard, whole or not at all; the same states, the same bytes.

    Args:
        storage: where to write.
        name: one that no other shard has: a shard is never changed.
        states: by client id; those in other shards are copied from there. Nothing may write to
            their tensors until this returns.

    Raises:
        CheckpointError: if it cannot be written, or a state holds what cannot be stored.
    """
    path = shard_file(name)
    parts = {int(c): encode_pieces((int(c), load_state(state))) for c, state in states.items()}
    pieces = [_build_header(parts), *(piece for part in parts.values() for piece in part)]
    storage.write(path, pieces)
    return ShardInfo(name, Checksum.of(pieces), tuple(parts))


def load_state(state: KeptState | StateFile) -> KeptState:
    """Return a state, read from its shard if it is in one.

    Raises:
        CheckpointError: if the file is missing, damaged, or cannot be read.
    """
    if isinstance(state, KeptState):
        return state
    return read_state(open_storage(state.location), state.shard, state.client)


def read_state(storage: Storage, shard: str, client: int) -> KeptState:
    """Read one client's state: the shard's header, and its part of the file.

    Raises:
        CheckpointError: if the shard does not hold the client, is damaged, or cannot be read.
    """
    path = shard_file(shard)
    place = f"{storage.location}/{path}"
    head = _read_head(storage, path)
    try:
        region, sha256 = _find(parse_header(head), client)
    except CheckpointError as error:
        raise CheckpointError(f"{place} cannot be used: {error}") from None
    data = head[region.start : region.stop]
    if region.stop > len(head):
        data = storage.read(path, region.start, region.stop)
    if Checksum.of([data]).sha256 != sha256:
        raise CheckpointError(f"{place} is damaged: client {client} does not match its checksum")
    return _decode(data, client, name=f"{place}, client {client}")


def read_state_digests(storage: Storage, shard: str) -> dict[int, str]:
    """Return the sha256 of each client's state in a shard, by client, from its header.

    Raises:
        CheckpointError: if the shard is damaged, or cannot be read.
    """
    header = parse_header(_read_head(storage, shard_file(shard)))
    return {int(client): _find(header, int(client))[1] for client in header.regions}


def _decode(data: bytes, client: int, *, name: str) -> KeptState:
    value = decode_file(data, name=name)
    if not (isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], KeptState)):
        raise CheckpointError(f"{name}: it does not hold a client's state")
    if value[0] != client:
        raise CheckpointError(f"{name}: the state is that of client {value[0]}")
    return value[1]


def _build_header(parts: Mapping[int, list[Piece]]) -> bytes:
    checksums = {str(client): Checksum.of(part) for client, part in parts.items()}
    described = {name: (torch.uint8, (found.num_bytes,)) for name, found in checksums.items()}
    sums = {name: found.sha256 for name, found in checksums.items()}
    return build_header(described, {METADATA_KEY: json.dumps({"sha256": sums})})


def _read_head(storage: Storage, path: str) -> bytes:
    """Read at least the header, in one request where it is short."""
    head = storage.read(path, 0, _FIRST_READ)
    try:
        length = header_length(head)
    except CheckpointError as error:
        raise CheckpointError(f"{storage.location}/{path} cannot be used: {error}") from None
    return head if length <= len(head) else storage.read(path, 0, length)


def _find(header: Header, client: int) -> tuple[Region, str]:
    """Return the region of a client's part, and its checksum."""
    try:
        sums = json.loads(header.metadata[METADATA_KEY])["sha256"]
        return header.regions[str(client)], sums[str(client)]
    except (KeyError, ValueError, TypeError, RecursionError):
        raise CheckpointError(f"it does not hold client {client}") from None
