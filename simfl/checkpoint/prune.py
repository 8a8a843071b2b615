"""Delete old checkpoints, and shards that are no longer in use."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from simfl.checkpoint.manifest import (
    Manifest,
    find_manifests,
    manifest_file,
    read_manifest,
    round_folder,
)
from simfl.errors import CheckpointError
from simfl.states import STATES_FOLDER, Storage, shard_file

_FOLDER = re.compile(r"round-(\d{6,})/.+")


def prune(storage: Storage, *, keep: int, in_use: Collection[str] = ()) -> None:
    """Delete all but the newest checkpoints, and the shards that none of those uses.

    Manifests are deleted first. So an interruption may leave unused files, which the next call
    deletes, but never a checkpoint without its files.

    Args:
        storage: where checkpoints are.
        keep: how many to keep, at least 1. Those with a damaged manifest do not count.
        in_use: names of shards to keep: those being written, those with a run's current states,
            and those that the next checkpoint will use.

    Raises:
        CheckpointError: if the storage fails.
    """
    assert keep >= 1, f"keep is {keep}"
    files = storage.list_files()
    rounds = find_manifests(files)
    manifests = {round: _try_read(storage, round) for round in rounds}
    readable = [round for round in rounds if manifests[round] is not None]
    if not readable:
        return
    oldest = readable[:keep][-1]
    for round in reversed(rounds):
        if round < oldest:
            storage.delete(manifest_file(round))
    _delete_folders(storage, files, oldest)
    _delete_shards(storage, [manifests[r] for r in rounds if r >= oldest], in_use)


def delete_unused_shards(storage: Storage, *, in_use: Collection[str]) -> None:
    """Delete the shards that no checkpoint refers to and that are not in use.

    If a checkpoint's manifest cannot be read, its shards are unknown, and all are kept.

    Args:
        storage: where checkpoints are.
        in_use: as for ``prune``.

    Raises:
        CheckpointError: if the storage fails.
    """
    rounds = find_manifests(storage.list_files())
    _delete_shards(storage, [_try_read(storage, round) for round in rounds], in_use)


def _try_read(storage: Storage, round: int) -> Manifest | None:
    try:
        return read_manifest(storage, round)
    except CheckpointError:
        return None


def _delete_folders(storage: Storage, files: Iterable[str], oldest: int) -> None:
    """Delete the remaining files of the rounds before the oldest that is kept."""
    matches = map(_FOLDER.fullmatch, files)
    for round in sorted({int(match[1]) for match in matches if match is not None}):
        if round < oldest:
            storage.delete_tree(round_folder(round))


def _delete_shards(
    storage: Storage, kept: Iterable[Manifest | None], in_use: Collection[str]
) -> None:
    used = {shard_file(name) for name in in_use}
    for manifest in kept:
        if manifest is None:  # perhaps of a later version, with unknown shards
            return
        used |= {shard_file(shard.name) for shard in manifest.shards}
    for name in storage.list_files(STATES_FOLDER):
        if name not in used:
            storage.delete(name)
