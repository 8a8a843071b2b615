"""What every engine does to save and to go back: checkpoints of its snapshot and its states."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from simfl.checkpoint import Checkpoint, ShardInfo, open_storage, prune, write_checkpoint
from simfl.messages import Broadcast, SaveOrder, Snapshot

__all__ = ["commit_checkpoint", "snapshot_of"]


def commit_checkpoint(
    location: str,
    order: SaveOrder,
    snapshot: Snapshot,
    *,
    files: dict[int, str],
    shards: Iterable[ShardInfo],
) -> None:
    """Write a checkpoint whose shards are there already, and remove what is no longer needed.

    Args:
        location: of the storage.
        order: what to write besides.
        snapshot: what the next round starts from.
        files: client id -> its shard.
        shards: all that ``files`` names.
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
    in_use: Collection[str] = set(files.values())
    prune(storage, keep=order.keep, in_use=in_use)


def snapshot_of(checkpoint: Checkpoint) -> Snapshot:
    """Return what a server is to be restored from; it collects its own auxiliary variables."""
    broadcast = Broadcast(checkpoint.round + 1, checkpoint.weights, {})
    return Snapshot(broadcast, checkpoint.optimizer)
