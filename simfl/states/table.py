"""StateTable: where each client's state is, in memory or in a shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from simfl.states.kept import Dropped, H, Kept, Retained
from simfl.states.shards import ShardInfo, StateFile

T = TypeVar("T")

MAX_SHARD_BYTES = 64 << 20
"""The size of states in one shard; the process that writes it has all of them in memory."""

MIN_CURRENT_FRACTION = 0.5
"""A shard is sparse if a smaller fraction of its states is current; those are then rewritten. The
objects in memory together hold at least this fraction of current states, too."""

SMALL_BYTES = 1 << 18
"""The size of a state up to which several share an object: an object costs 0.2 ms, which is little
next to the training of a larger model."""

OBJECT_BYTES = 16 << 20
"""The size of states in one object."""

SPARE_BYTES = 64 << 20
"""Outdated states in memory that are not worth the work of moving current ones."""


@dataclass(eq=False)
class StoredObject:
    """An object with the states of one or of several clients."""

    holder: Any
    """What holds them."""
    num_states: int
    """How many there are; at least 1."""
    num_bytes: int
    """Their size, outdated ones included."""
    num_current: int = 0
    """How many of them a table refers to."""

    @property
    def current_bytes(self) -> int:
        """The size of the states that a table refers to."""
        return self.num_bytes * self.num_current // self.num_states


@dataclass(frozen=True, eq=False)
class Place:
    """A holder of a client's state: a row of an object."""

    of: StoredObject
    row: int


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
        self._objects: dict[StoredObject, None] = {}
        """Those that hold a current state."""
        self._files: dict[int, str] = {}
        self._shards: dict[str, ShardInfo] = {}
        self._bytes_per_client: int | None = None

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

    def num_objects(self, num_clients: int) -> int:
        """Return in how many objects the new states of so many clients are to be put.

        States that are large, or whose size is not known yet, get an object each, so that memory is
        released client by client.
        """
        size = self._bytes_per_client
        if size is None or size > SMALL_BYTES:
            return num_clients
        return -(-num_clients * size // OBJECT_BYTES)

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
            self._files.pop(client, None)
            self._hold(client, result.state if isinstance(result, Kept) else None)
            num_new += isinstance(result, Kept)
        if num_new:
            self._bytes_per_client = max(1, num_bytes // num_new)

    def _hold(self, client: int, holder: H | None) -> None:
        """Replace what is in memory of a client; None: nothing is any more."""
        before = self._held.pop(client, None)
        if isinstance(before, Place):
            before.of.num_current -= 1
            if not before.of.num_current:
                del self._objects[before.of]
        if holder is not None:
            self._held[client] = holder
        if isinstance(holder, Place):
            self._objects[holder.of] = None
            holder.of.num_current += 1

    @property
    def held_bytes(self) -> int:
        """The approximate size of the states that are in memory and in no shard."""
        alone = len(self._held) - sum(stored.num_current for stored in self._objects)
        in_objects = sum(stored.current_bytes for stored in self._objects)
        return in_objects + alone * (self._bytes_per_client or 0)

    def plan_move(self, limit: int) -> dict[int, Place]:
        """Return which states to move to an object of their own, so that others are released.

        Args:
            limit: the bytes that may be held, if this is more than the current states; without
                need, outdated states are not more than the current ones.

        Returns:
            By client id, the states of the objects with the smallest fraction of current ones;
            none as long as the others are no burden.
        """
        held = sum(stored.num_bytes for stored in self._objects)
        current = sum(stored.current_bytes for stored in self._objects)
        most = min(current / MIN_CURRENT_FRACTION, max(current, limit)) + SPARE_BYTES
        if held <= most:
            return {}
        sparse: set[StoredObject] = set()
        moved = 0
        for stored in sorted(self._objects, key=lambda one: one.num_current / one.num_states):
            outdated = stored.num_bytes - stored.current_bytes
            moved += stored.current_bytes
            if not outdated or moved > OBJECT_BYTES or held <= most - SPARE_BYTES / 2:
                break
            sparse.add(stored)
            held -= outdated
        return {
            client: holder
            for client, holder in self._held.items()
            if isinstance(holder, Place) and holder.of in sparse
        }

    def moved(self, planned: Mapping[int, Place], holder: Any) -> None:
        """Refer to the object to which states were moved, except for those that were replaced."""
        size = sum(place.of.num_bytes // place.of.num_states for place in planned.values())
        stored = StoredObject(holder, len(planned), size)
        for row, (client, place) in enumerate(planned.items()):
            if self._held.get(client) is place:
                new: Any = Place(stored, row)
                self._hold(client, new)

    def plan_shards(self, label: str) -> list[PlannedShard[H]]:
        """Return which states to write, and in which shards.

        These are all that are only in memory, and the current states of sparse shards, so that
        disk use stays below ``1 / MIN_CURRENT_FRACTION`` times the states. If none are in memory,
        there is nothing to write.
        """
        if not self._held:
            return []
        holders: dict[int, H | StateFile] = {**self._held, **self._in_sparse_shards()}
        size = max(1, MAX_SHARD_BYTES // (self._bytes_per_client or 1))
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
                self._hold(client, None)
                self._files[client] = info.name
        self._shards = {shard.name: shard for shard in self.shards}

    def restore(self, files: Mapping[int, str], shards: Iterable[ShardInfo]) -> None:
        """Return to a checkpoint's states; those in memory are of rounds to be repeated."""
        self._held, self._objects = {}, {}
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


def in_equal_parts(values: Sequence[T], most: int) -> list[Sequence[T]]:
    """Cut values into at most so many parts, none of them empty, as equal as a fixed size allows.

    >>> in_equal_parts([1, 2, 3, 4, 5], 2)
    [[1, 2, 3], [4, 5]]
    """
    size = -(-len(values) // max(most, 1)) or 1
    return [values[start : start + size] for start in range(0, len(values), size)]
