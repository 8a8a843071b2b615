"""Saving and restoring, for every engine: checkpoints of its snapshot and its states."""

from __future__ import annotations

from collections.abc import Sequence

from simfl.checkpoint import Checkpoint, prune, write_checkpoint
from simfl.messages import Broadcast, SaveOrder, Snapshot
from simfl.states import ShardInfo, open_storage


def commit_checkpoint(
    location: str,
    order: SaveOrder,
    snapshot: Snapshot,
    *,
    files: dict[int, str],
    shards: Sequence[ShardInfo],
) -> None:
    """Write a checkpoint whose shards have been written, and delete what is no longer needed.

    Args:
        location: of the storage.
        order: what else to write.
        snapshot: what the next round starts from.
        files: client id -> its shard.
        shards: all that ``files`` names, and any others to be kept.
    """
    storage = open_storage(location)
    checkpoint = Checkpoint(
        round=order.round,
        scenario_hash=order.scenario_hash,
        weights=snapshot.broadcast.weights,
        optimizer=snapshot.optimizer,
        states=files,
        positions=order.positions,
    )
    write_checkpoint(storage, checkpoint, shards=shards)
    prune(storage, keep=order.keep, in_use={shard.name for shard in shards})


def snapshot_of(checkpoint: Checkpoint) -> Snapshot:
    """Return the snapshot that restores a server, which collects auxiliary variables itself."""
    broadcast = Broadcast(checkpoint.round + 1, checkpoint.weights, {})
    return Snapshot(broadcast, checkpoint.optimizer)
