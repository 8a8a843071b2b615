"""Which checkpoint a resumed run goes on from: the newest that is whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simfl.checkpoint.checkpoint import Checkpoint
from simfl.checkpoint.manifest import (
    Manifest,
    find_manifests,
    read_manifest,
    round_folder,
    server_file,
)
from simfl.errors import CheckpointError
from simfl.states import Checksum, OptimizerState, ShardInfo, Storage, decode_file, shard_file
from simfl.vector import Vector


@dataclass(frozen=True)
class Refusal:
    """A checkpoint that cannot be used, and why."""

    name: str
    """Its folder."""
    reason: str

    def __str__(self) -> str:
        return f"checkpoint {self.name} cannot be used: {self.reason}"


@dataclass(frozen=True)
class Found:
    """What ``latest_checkpoint`` has found."""

    checkpoint: Checkpoint | None
    """The newest that is whole. None: there is none, or, with refusals, all are damaged."""
    shards: tuple[ShardInfo, ...]
    """The shards that the checkpoint uses, for the next one to use them too."""
    refusals: tuple[Refusal, ...]
    """The newer ones that cannot be used, newest first; the user should be told of each."""
    versions: dict[str, str]
    """The versions that wrote the checkpoint, by package: others may give other last bits."""


def latest_checkpoint(storage: Storage, *, scenario_hash: str | None = None) -> Found:
    """Find the newest checkpoint that is whole, and read all of it but the clients' states.

    Every file it refers to is read and compared with its checksum, some megabytes at a time.

    Args:
        storage: where checkpoints are.
        scenario_hash: of the scenario that is to go on; None: any.

    Raises:
        CheckpointError: if the storage cannot be read, or the checkpoint is of another scenario.
    """
    refusals: list[Refusal] = []
    files = storage.list_files()
    for round in find_manifests(files):
        try:
            manifest = read_manifest(storage, round)
            is_ours = scenario_hash in (None, manifest.scenario_hash)
            checkpoint = _read(storage, manifest, files) if is_ours else None
        except CheckpointError as error:
            refusals.append(Refusal(round_folder(round), str(error)))
            continue
        if checkpoint is None:
            raise CheckpointError(
                f"{storage.location}/{round_folder(round)} was written by a run of another "
                "scenario; give that scenario, or another place for checkpoints"
            )
        versions = {"simfl": manifest.simfl, "torch": manifest.torch}
        return Found(checkpoint, manifest.shards, tuple(refusals), versions)
    return Found(None, (), tuple(refusals), {})


def _read(storage: Storage, manifest: Manifest, files: Mapping[str, int]) -> Checkpoint:
    name = server_file(manifest.round)
    _require_size(files, name, manifest.server)
    for shard in manifest.shards:
        _require_size(files, shard_file(shard.name), shard.checksum)
    data = storage.read(name)
    if Checksum.of([data]) != manifest.server:
        raise CheckpointError(f"{name} does not match its checksum")
    checkpoint = _parse(decode_file(data, name=name), name)
    if (checkpoint.round, checkpoint.scenario_hash) != (manifest.round, manifest.scenario_hash):
        raise CheckpointError(f"{name} is that of round {checkpoint.round}, or another scenario's")
    _require_clients(checkpoint.states, manifest.shards)
    for shard in manifest.shards:
        _require_whole(storage, shard_file(shard.name), shard.checksum)
    return checkpoint


def _parse(value: Any, name: str) -> Checkpoint:
    types = {
        "round": int,
        "scenario_hash": str,
        "weights": Vector,
        "optimizer": OptimizerState,
        "states": dict,
        "positions": dict,
    }
    found = {key: type(item) for key, item in value.items()} if isinstance(value, dict) else {}
    if found != types:
        raise CheckpointError(f"{name} does not hold what a checkpoint consists of")
    return Checkpoint(**{**value, "states": _by_client(value["states"], name)})


def _by_client(grouped: Mapping[Any, Any], name: str) -> dict[int, str]:
    """Return client -> shard, by client."""
    try:
        pairs = [(client, shard) for shard, ids in grouped.items() for client in ids.tolist()]
        states = dict(sorted(pairs))
    except (AttributeError, TypeError):
        raise CheckpointError(f"{name} does not say where the clients' states are") from None
    if len(states) != len(pairs):
        raise CheckpointError(f"{name} names two states of one client")
    return states


def _require_clients(states: Mapping[int, str], shards: tuple[ShardInfo, ...]) -> None:
    clients = {shard.name: set(shard.clients) for shard in shards}
    for client, shard in states.items():
        if client not in clients.get(shard, ()):
            raise CheckpointError(f"the manifest names no shard {shard!r} with client {client}")


def _require_size(files: Mapping[str, int], name: str, expected: Checksum) -> None:
    """Check that a file has the expected size, before it is read.

    Args:
        files: name -> number of bytes, as a storage lists them.
        name: the file's.
        expected: what it should be.

    Raises:
        CheckpointError: if not. A missing file is reported when it is read.
    """
    if files.get(name, expected.num_bytes) != expected.num_bytes:
        raise CheckpointError(f"{name} has {files[name]:,} bytes, not {expected.num_bytes:,}")


def _require_whole(storage: Storage, name: str, expected: Checksum) -> None:
    """Read a file, some megabytes at a time, and compare.

    Raises:
        CheckpointError: if it is another, or cannot be read.
    """
    if Checksum.of(storage.read_chunks(name)) != expected:
        raise CheckpointError(f"{name} does not match its checksum")
