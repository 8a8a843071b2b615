"""StateTable: where each client's state is, in memory or in a shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from simfl.states.kept import Dropped, H, Kept, Retained
from simfl.states.shards import ShardInfo, StateFile

MAX_SHARD_BYTES = 64 << 20
"""The size of states in one shard; the process that writes it has all of them in memory."""

MIN_CURRENT_FRACTION = 0.5
"""A shard is sparse if a smaller fraction of its states is current; those are then rewritten."""


@dataclass(frozen=True)
class PlannedShard(Generic[H]):
    """States to be written together."""

    name: str
    holders: dict[int, H | StateFile]
    """By client id; a StateFile where a state moves here from a sparse shard."""


class StateTable(Generic[H]):
    """Maps clients to their states, which are values: a new round's replaces the previous one.

    Args:
        location: the storage of the shards.
    """

    def __init__(self, location: str) -> None:
        self._location = location
        self._held: dict[int, H] = {}
        self._files: dict[int, str] = {}
        self._shards: dict[str, ShardInfo] = {}
        self._bytes_per_client = 1

    def get(self, client: int) -> H | StateFile | None:
        """Return the holder of a client's state; None if it keeps nothing or never took part."""
        if client in self._held:
            return self._held[client]
        shard = self._files.get(client)
        return None if shard is None else StateFile(self._location, shard, client)

    @property
    def is_empty(self) -> bool:
        """Whether no client keeps anything."""
        return not (self._held or self._files)

    def commit(self, retained: Mapping[int, Retained[H]], *, num_bytes: int) -> None:
        """Store the states that a finished round has produced.

        Args:
            retained: by client id.
            num_bytes: the total size of these states.
        """
        num_new = 0
        for client, result in retained.items():
            if isinstance(result, Dropped):
                continue
            self._held.pop(client, None)
            self._files.pop(client, None)
            if isinstance(result, Kept):
                self._held[client] = result.state
                num_new += 1
        if num_new:
            self._bytes_per_client = max(1, num_bytes // num_new)

    @property
    def held_bytes(self) -> int:
        """The approximate size of the states that are in memory and in no shard."""
        return len(self._held) * self._bytes_per_client

    def plan_shards(self, label: str) -> list[PlannedShard[H]]:
        """Return which states to write, and in which shards.

        These are all that are only in memory, and the current states of sparse shards, so that
        disk use stays below ``1 / MIN_CURRENT_FRACTION`` times the states. If none are in memory,
        there is nothing to write.
        """
        if not self._held:
            return []
        holders: dict[int, H | StateFile] = {**self._held, **self._in_sparse_shards()}
        size = max(1, MAX_SHARD_BYTES // self._bytes_per_client)
        clients = sorted(holders)
        return [
            PlannedShard(
                f"{label}-{number:04d}", {c: holders[c] for c in clients[start : start + size]}
            )
            for number, start in enumerate(range(0, len(clients), size))
        ]

    def shards_with(self, planned: Iterable[PlannedShard[H]]) -> dict[int, str]:
        """Return each client's shard as it is once the planned ones are written."""
        return self._files | {client: plan.name for plan in planned for client in plan.holders}

    @property
    def shards(self) -> Sequence[ShardInfo]:
        """The shards that hold at least one current state."""
        used = set(self._files.values())
        return [shard for name, shard in self._shards.items() if name in used]

    def written(self, plan: PlannedShard[H], info: ShardInfo) -> None:
        """Release the states that the new shard holds, unless a newer one has come meanwhile."""
        self._shards[info.name] = info
        for client, holder in plan.holders.items():
            if self._is_current(client, holder):
                self._held.pop(client, None)
                self._files[client] = info.name
        self._shards = {shard.name: shard for shard in self.shards}

    def restore(self, files: Mapping[int, str], shards: Iterable[ShardInfo]) -> None:
        """Return to a checkpoint's states; those in memory are of rounds to be repeated."""
        self._held = {}
        self._files = dict(files)
        self._shards = {shard.name: shard for shard in shards}

    def _is_current(self, client: int, holder: H | StateFile) -> bool:
        if isinstance(holder, StateFile):
            return client not in self._held and self.get(client) == holder
        return self._held.get(client) is holder

    def _in_sparse_shards(self) -> dict[int, StateFile]:
        """Return the current states in shards that mostly hold outdated ones."""
        num_current = Counter(self._files.values())
        return {
            client: StateFile(self._location, name, client)
            for client, name in self._files.items()
            if num_current[name] < MIN_CURRENT_FRACTION * len(self._shards[name].clients)
        }
