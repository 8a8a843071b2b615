"""All that a resumed run needs, written so that it is there as a whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from simfl.checkpoint.manifest import Manifest, server_file, write_manifest
from simfl.errors import CheckpointError
from simfl.states import (
    STATES_FOLDER,
    Checksum,
    OptimizerState,
    ShardInfo,
    Storage,
    encode_pieces,
    shard_file,
)
from simfl.vector import Vector
from simfl.version import __version__


@dataclass(frozen=True)
class Checkpoint:
    """A run after some round."""

    round: int
    """How many rounds have been committed."""
    scenario_hash: str
    """Says which scenario it belongs to."""
    weights: Vector
    """All of the server's weights: trainable, frozen and buffers."""
    optimizer: OptimizerState
    """The server's."""
    states: dict[int, str] = field(default_factory=dict)
    """Client id -> the shard that holds what its optimizer keeps."""
    positions: dict[str, Any] = field(default_factory=dict)
    """What identifies the run and its files on resume; JSON values by name."""


def write_checkpoint(
    storage: Storage, checkpoint: Checkpoint, *, shards: Iterable[ShardInfo]
) -> None:
    """Write a checkpoint; its manifest comes last, and only then does it count.

    Args:
        storage: where to.
        checkpoint: nothing may write to its tensors until this returns.
        shards: what ``write_shard`` has returned, or ``Found.shards``, for each shard that
            ``checkpoint.states`` names; others are left out of the manifest.

    Raises:
        CheckpointError: if it cannot be written, or a shard is not where it should be.
    """
    used = set(checkpoint.states.values())
    infos = tuple(sorted((s for s in shards if s.name in used), key=lambda shard: shard.name))
    _require_shards(storage, checkpoint.states, {shard.name: shard for shard in infos})
    pieces = encode_pieces(_server_value(checkpoint))
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


def _require_shards(
    storage: Storage, states: Mapping[int, str], shards: Mapping[str, ShardInfo]
) -> None:
    """Refuse to commit to what a resume would not find."""
    clients = {name: set(shard.clients) for name, shard in shards.items()}
    for client, name in states.items():
        assert client in clients.get(name, ()), f"no shard {name!r} with client {client} was given"
    sizes = storage.list_files(STATES_FOLDER) if shards else {}
    for name, shard in shards.items():
        if sizes.get(shard_file(name)) != shard.checksum.num_bytes:
            raise CheckpointError(
                f"{storage.location}/{shard_file(name)} was written elsewhere, or is gone; the "
                "folder for checkpoints must be one that every node of the cluster sees"
            )


def _server_value(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "round": checkpoint.round,
        "scenario_hash": checkpoint.scenario_hash,
        "weights": checkpoint.weights,
        "optimizer": checkpoint.optimizer,
        "states": _by_shard(checkpoint.states),
        "positions": checkpoint.positions,
    }


def _by_shard(states: Mapping[int, str]) -> dict[str, torch.Tensor]:
    """Group the clients by shard: ids as one tensor, for there may be a million."""
    grouped: dict[str, list[int]] = {}
    for client in sorted(states):
        grouped.setdefault(states[client], []).append(client)
    return {name: torch.tensor(ids, dtype=torch.int64) for name, ids in sorted(grouped.items())}
