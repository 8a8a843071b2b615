"""Storages and checkpoints that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from simfl.checkpoint import Checkpoint, write_checkpoint
from simfl.errors import CheckpointError
from simfl.states import OptimizerState, ShardInfo, Storage, write_shard
from simfl.vector import Vector
from tests.unit.states.state_cases import kept


def checkpoint(round: int, states: dict[int, str] | None = None) -> Checkpoint:
    weights = Vector({"w": torch.tensor([0.5, -0.0, float("nan")]) * round, "n": torch.tensor(7)})
    optimizer = OptimizerState(3, -1, round, 0, round, ({"velocity": weights},), ())
    positions = {"JsonLines": {"bytes": 100 * round}}
    return Checkpoint(round, "5ca1ab1e", weights, optimizer, states or {}, positions)


def save_two(storage: Storage) -> list[ShardInfo]:
    """Write rounds 1 and 2; client 1 took part in both, client 0 in the first, 2 in the second."""
    first = write_shard(storage, "first", {0: kept(10.0), 1: kept(11.0)})
    write_checkpoint(storage, checkpoint(1, {0: "first", 1: "first"}), shards=[first])
    second = write_shard(storage, "second", {1: kept(21.0), 2: kept(22.0)})
    states = {0: "first", 1: "second", 2: "second"}
    write_checkpoint(storage, checkpoint(2, states), shards=[first, second])
    return [first, second]


class StorageGoneError(CheckpointError):
    """The storage went away."""


class FailingStorage:
    """Another storage, which goes away at some operation, perhaps in the middle of a write."""

    def __init__(self, storage: Storage, *, after: int, torn: float | None = None) -> None:
        self._storage = storage
        self._left = after
        self._torn = torn
        self.location = storage.location

    def write(self, name: str, pieces: Iterable[bytes | memoryview]) -> None:
        data = b"".join(pieces)
        if self._left == 0 and self._torn is not None:
            self._storage.write(name, [data[: int(len(data) * self._torn)]])
        self._step()
        self._storage.write(name, [data])

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        return self._storage.read(name, start, stop)

    def read_chunks(self, name: str) -> Iterator[bytes]:
        return self._storage.read_chunks(name)

    def list_files(self, folder: str = "") -> dict[str, int]:
        return self._storage.list_files(folder)

    def delete(self, name: str) -> None:
        self._step()
        self._storage.delete(name)

    def delete_tree(self, folder: str) -> None:
        self._step()
        self._storage.delete_tree(folder)

    def delete_leftovers(self) -> None:
        self._storage.delete_leftovers()

    def _step(self) -> None:
        if self._left == 0:
            raise StorageGoneError("the storage went away")
        self._left -= 1
