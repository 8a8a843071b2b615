"""A run's checkpoint: written as a whole or not at all, and the newest whole one found again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from simfl.checkpoint.manifest import (
    Manifest,
    find_manifests,
    read_manifest,
    round_folder,
    server_file,
    write_manifest,
)
from simfl.errors import CheckpointError
from simfl.states import (
    STATES_FOLDER,
    Checksum,
    OptimizerState,
    ShardInfo,
    State,
    Storage,
    decode_file,
    encode_pieces,
    shard_file,
)
from simfl.vector import Vector
from simfl.version import __version__

_ADDED = ("algorithm", "aggregator", "sampler")
"""The entries of the server's file that are omitted where they are empty."""


@dataclass(frozen=True)
class Checkpoint:
    """A run after some round."""

    round: int
    """The number of rounds that have been committed."""
    scenario_hash: str
    """Identifies the scenario."""
    weights: Vector
    """All of the server's weights and buffers."""
    optimizer: OptimizerState
    """The server's."""
    states: dict[int, str] = field(default_factory=dict)
    """Client id -> the shard that holds its state."""
    positions: dict[str, Any] = field(default_factory=dict)
    """What identifies the run and its files on resume; JSON values by name."""
    algorithm: State = field(default_factory=dict)
    """What the server's half of the algorithm keeps."""
    aggregator: State = field(default_factory=dict)
    """What the aggregator keeps."""
    sampler: State = field(default_factory=dict)
    """What the sampler knows of the rounds so far, if it looks back."""


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
    """The newest whole one. None: there are none, or, with refusals, all are damaged."""
    shards: tuple[ShardInfo, ...]
    """The shards that the checkpoint uses; the next one may use them, too."""
    refusals: tuple[Refusal, ...]
    """The newer ones that cannot be used, newest first; the user should see each."""
    versions: dict[str, str]
    """The versions that wrote the checkpoint, by package: others may round differently."""


# -- writing ---------------------------------------------------------------------------------


def write_checkpoint(
    storage: Storage, checkpoint: Checkpoint, *, shards: Iterable[ShardInfo]
) -> None:
    """Write a checkpoint; it counts once its manifest is written, which is last.

    Args:
        storage: where to write.
        checkpoint: nothing may write to its tensors until this returns.
        shards: what ``write_shard`` has returned, or ``Found.shards``, for each shard that
            ``checkpoint.states`` names; the manifest omits others.

    Raises:
        CheckpointError: if it cannot be written, or the storage does not have a shard.
    """
    used = set(checkpoint.states.values())
    infos = tuple(sorted((s for s in shards if s.name in used), key=lambda shard: shard.name))
    missing = _find_unlisted(checkpoint.states, infos)
    assert missing is None, f"no shard with client {missing} was given"
    _require_shards(storage, infos)
    entries = {key: value for key, value in vars(checkpoint).items() if value or key not in _ADDED}
    pieces = encode_pieces({**entries, "states": _by_shard(checkpoint.states)})
    storage.write(server_file(checkpoint.round), pieces)
    manifest = Manifest(
        round=checkpoint.round,
        scenario_hash=checkpoint.scenario_hash,
        simfl=__version__,
        torch=str(torch.__version__),
        server=Checksum.of(pieces),
        shards=infos,
    )
    write_manifest(storage, manifest)


def _require_shards(storage: Storage, shards: tuple[ShardInfo, ...]) -> None:
    """Check that the storage has all shards, as a resume would find them."""
    sizes = storage.list_files(STATES_FOLDER) if shards else {}
    for shard in shards:
        name = shard_file(shard.name)
        if sizes.get(name) != shard.checksum.num_bytes:
            raise CheckpointError(
                f"{storage.location}/{name} was written elsewhere, or is missing; the "
                "folder for checkpoints must be visible to every node of the cluster"
            )


def _by_shard(states: Mapping[int, str]) -> dict[str, torch.Tensor]:
    """Group the clients by shard: ids as one tensor, since there may be a million."""
    grouped: dict[str, list[int]] = {}
    for client in sorted(states):
        grouped.setdefault(states[client], []).append(client)
    return {name: torch.tensor(ids, dtype=torch.int64) for name, ids in sorted(grouped.items())}


# -- reading ---------------------------------------------------------------------------------


def latest_checkpoint(
    storage: Storage, *, scenario_hash: str | None = None, round: int | None = None
) -> Found:
    """Find the newest checkpoint that is whole, and read all of it but the clients' states.

    Every file it refers to is read, some megabytes at a time, and compared with its checksum.

    Args:
        storage: where checkpoints are.
        scenario_hash: of the scenario to resume; None: any.
        round: after which it was written; None: any.

    Raises:
        CheckpointError: if the storage cannot be read, or the checkpoint is of another scenario.
    """
    refusals: list[Refusal] = []
    files = storage.list_files()
    for number in find_manifests(files):
        if round not in (None, number):
            continue
        try:
            manifest = read_manifest(storage, number)
            is_ours = scenario_hash in (None, manifest.scenario_hash)
            checkpoint = _read(storage, manifest, files) if is_ours else None
        except CheckpointError as error:
            refusals.append(Refusal(round_folder(number), str(error)))
            continue
        if checkpoint is None:
            raise CheckpointError(
                f"{storage.location}/{round_folder(number)} was written by a run of another "
                "scenario; give that scenario, or another place for checkpoints"
            )
        versions = {"simfl": manifest.simfl, "torch": manifest.torch}
        return Found(checkpoint, manifest.shards, tuple(refusals), versions)
    return Found(None, (), tuple(refusals), {})


def saved_rounds(storage: Storage) -> list[int]:
    """Return the rounds that have a checkpoint, in order; it may still be damaged."""
    return sorted(find_manifests(storage.list_files()))


def read_checkpoint(storage: Storage, round: int) -> Found:
    """Read the checkpoint of a round, as ``latest_checkpoint`` does.

    Raises:
        CheckpointError: if it cannot be read, or is damaged.
    """
    manifest = read_manifest(storage, round)
    versions = {"simfl": manifest.simfl, "torch": manifest.torch}
    checkpoint = _read(storage, manifest, storage.list_files())
    return Found(checkpoint, manifest.shards, (), versions)


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
    if (client := _find_unlisted(checkpoint.states, manifest.shards)) is not None:
        shard_name = checkpoint.states[client]
        raise CheckpointError(f"the manifest names no shard {shard_name!r} with client {client}")
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
    if found != types | {key: dict for key in _ADDED if key in found}:
        raise CheckpointError(f"{name} does not hold what a checkpoint consists of")
    return Checkpoint(**{**value, "states": _by_client(value["states"], name)})


def _by_client(grouped: Mapping[Any, Any], name: str) -> dict[int, str]:
    """Return client -> shard, by client."""
    try:
        pairs = [(client, shard) for shard, ids in grouped.items() for client in ids.tolist()]
        states = dict(sorted(pairs))
    except (AttributeError, TypeError):
        raise CheckpointError(f"{name} does not list the files of the clients' states") from None
    if len(states) != len(pairs):
        raise CheckpointError(f"{name} names two states of one client")
    return states


def _find_unlisted(states: Mapping[int, str], shards: Iterable[ShardInfo]) -> int | None:
    """Return a client whose shard is missing or does not hold it."""
    clients = {shard.name: set(shard.clients) for shard in shards}
    unlisted = (client for client, name in states.items() if client not in clients.get(name, ()))
    return next(unlisted, None)


def _require_size(files: Mapping[str, int], name: str, expected: Checksum) -> None:
    """Check a file's size before it is read; a missing file is reported when it is read."""
    if files.get(name, expected.num_bytes) != expected.num_bytes:
        raise CheckpointError(f"{name} has {files[name]:,} bytes, not {expected.num_bytes:,}")


def _require_whole(storage: Storage, name: str, expected: Checksum) -> None:
    """Read a file, some megabytes at a time, and check it."""
    if Checksum.of(storage.read_chunks(name)) != expected:
        raise CheckpointError(f"{name} does not match its checksum")
