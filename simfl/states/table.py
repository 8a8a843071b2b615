"""StateTable: where what each client keeps is, in memory or in a shard on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from simfl.states.kept import Dropped, H, Kept, Retained
from simfl.states.shards import ShardInfo, StateFile

SHARD_BYTES = 64 << 20
"""How much of states goes into one shard, and so is held at once by whoever writes it."""

FULL_SHARE = 0.5
"""A shard of which a smaller share is present states is sparse: its rest is written anew."""


@dataclass(frozen=True)
class PlannedShard(Generic[H]):
    """States that are to be written together."""

    name: str
    holders: dict[int, H | StateFile]
    """By client id; a StateFile where a state moves here from a sparse shard."""


class StateTable(Generic[H]):
    """Maps clients to their kept states, which are values: a new round's replaces the former.

    Args:
        location: the storage in which shards are.
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
        """About how much of the states is in memory and in no shard."""
        return len(self._held) * self._bytes_per_client

    def plan_shards(self, label: str) -> list[PlannedShard[H]]:
        """Say which states to write, and in which shards.

        All that are in memory only, and with them what is left of sparse shards, so that disk use
        stays below ``1 / FULL_SHARE`` times the states. Nothing if nothing is in memory.
        """
        if not self._held:
            return []
        holders: dict[int, H | StateFile] = {**self._held, **self._in_sparse_shards()}
        size = max(1, SHARD_BYTES // self._bytes_per_client)
        clients = sorted(holders)
        return [
            PlannedShard(
                f"{label}-{number:04d}", {c: holders[c] for c in clients[start : start + size]}
            )
            for number, start in enumerate(range(0, len(clients), size))
        ]

    def shards_with(self, planned: Iterable[PlannedShard[H]]) -> dict[int, str]:
        """Return each client's shard, once the planned ones are written."""
        return self._files | {client: plan.name for plan in planned for client in plan.holders}

    @property
    def shards(self) -> Sequence[ShardInfo]:
        """The shards that hold somebody's present state."""
        used = set(self._files.values())
        return [shard for name, shard in self._shards.items() if name in used]

    def written(self, plan: PlannedShard[H], info: ShardInfo) -> None:
        """Let go of what is in the new shard now, unless a newer state has come meanwhile."""
        self._shards[info.name] = info
        for client, holder in plan.holders.items():
            if self._is_present(client, holder):
                self._held.pop(client, None)
                self._files[client] = info.name
        self._shards = {shard.name: shard for shard in self.shards}

    def restore(self, files: Mapping[int, str], shards: Iterable[ShardInfo]) -> None:
        """Become what a checkpoint says; whatever is in memory is of rounds to be replayed."""
        self._held = {}
        self._files = dict(files)
        self._shards = {shard.name: shard for shard in shards}

    def _is_present(self, client: int, holder: H | StateFile) -> bool:
        if isinstance(holder, StateFile):
            return client not in self._held and self.get(client) == holder
        return self._held.get(client) is holder

    def _in_sparse_shards(self) -> dict[int, StateFile]:
        """Return the present states that lie among too many former ones."""
        present = Counter(self._files.values())
        return {
            client: StateFile(self._location, name, client)
            for client, name in self._files.items()
            if present[name] < FULL_SHARE * len(self._shards[name].clients)
        }
