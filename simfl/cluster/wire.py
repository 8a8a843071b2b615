"""Parcels: messages in the form in which Ray moves them, opened only once.

Ray unpickles an actor's arguments with each call, and the object store's memory is read-only,
although torch would write to it. A parcel keeps a message's arrays apart from the rest, so that
the object store serves them without a copy, and a receiver copies them into its own memory when it
opens the parcel; except those of shared Vectors, which are read-only.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import ray

from simfl.messages import Broadcast, Partial
from simfl.models.base import InitialState
from simfl.states import (
    GivenStates,
    Kept,
    KeptState,
    PackedRow,
    PackedStates,
    Place,
    Retained,
    StateFile,
    StoredObject,
    in_equal_parts,
    join_rows,
    load_state,
    pack_rows,
)
from simfl.vector import Layout, Vector, find_vectors
from simfl.vector.memory import Bytes

Packed: TypeAlias = "Parcel | Bytes"
"""States of clients: in rows, or in a tuple, of one client or of such as rows cannot hold."""

Memory: TypeAlias = "list[np.ndarray[Any, Any]]"
"""Arrays of bytes."""


@dataclass(frozen=True)
class Parcel:
    """A pickled message."""

    label: int
    """Which message it is, known without opening it: the round, or the chunk's first position."""
    header: bytes
    """The message without its arrays."""
    arrays: Memory
    """The memory of its arrays."""
    shared: list[tuple[Layout, Memory]]
    """The Vectors that are read in place."""


def pack(message: object, *, label: int, share: Sequence[Vector] = ()) -> Parcel:
    """Pickle a message into a parcel, without copying its arrays.

    Args:
        message: anything that can be pickled.
        label: which message it is.
        share: those of its Vectors that the receiver reads in place; they arrive read-only.
    """
    header = io.BytesIO()
    buffers: list[pickle.PickleBuffer] = []
    packer: Any = _Packer(header, buffers, share)
    packer.dump(message)
    arrays = [np.frombuffer(b.raw(), np.uint8) for b in buffers]
    return Parcel(label, header.getvalue(), arrays, [vector.to_memory() for vector in share])


def pack_broadcast(broadcast: Broadcast, *, share_aux: bool, label: int | None = None) -> Parcel:
    """Pack a broadcast for any number of readers, which share the weights.

    Args:
        broadcast: to be packed.
        share_aux: whether they share the auxiliary variables, too, which plug-ins are given.
        label: which broadcast it is; None: the one of its round.
    """
    shared = [broadcast.weights, *(find_vectors(broadcast.aux) if share_aux else [])]
    return pack(broadcast, label=broadcast.round if label is None else label, share=shared)


def pack_partial(partial: Partial, *, sums: bool, aux: bool) -> Parcel:
    """Pack a partial.

    Args:
        partial: to be packed.
        sums: whether the reader reads the aggregator's sums in place.
        aux: whether it does so with auxiliary variables.
    """
    nodes = [node for node in partial.nodes.values() if node is not None]
    share = find_vectors([node.total for node in nodes]) if sums else []
    share += find_vectors([node.aux for node in nodes]) if aux else []
    return pack(partial, label=partial.start, share=share)


def pack_states(
    states: Mapping[int, Retained[KeptState]], *, num_objects: int, share: bool
) -> list[Packed | None]:
    """Pack what clients keep, for whichever actors train them next.

    Args:
        states: by client id.
        num_objects: how many objects there are to be; those that are not needed are None.
        share: whether the readers read all Vectors in place.
    """
    kept = [one for one in states.values() if isinstance(one, Kept)]
    packed: list[Packed | None] = [
        _pack_together(part, share=share) for part in in_equal_parts(kept, num_objects)
    ]
    return packed + [None] * (num_objects - len(packed))


def _pack_together(kept: Sequence[Kept[KeptState]], *, share: bool) -> Packed:
    """Pack the states of some clients in one object: in rows, unless it is a single one's."""
    rows = pack_rows(kept) if len(kept) > 1 else None
    if rows is not None:
        return rows
    states = tuple(one.state for one in kept)
    return pack(states, label=0, share=find_vectors(states) if share else [])


@dataclass(frozen=True)
class Addresses:
    """Where the states of some clients are, among the objects that are sent with it."""

    of: tuple[tuple[int, int] | StateFile | None, ...]
    """Of each client: which object and which row, a file, or None for one that keeps nothing."""


def address(holders: Iterable[Place | StateFile | None]) -> tuple[Addresses, list[Ref]]:
    """Return what ``open_states`` is given where these states are used."""
    numbers: dict[StoredObject, int] = {}
    found = tuple(
        (numbers.setdefault(holder.of, len(numbers)), holder.row)
        if isinstance(holder, Place)
        else holder
        for holder in holders
    )
    return Addresses(found), [stored.holder for stored in numbers]


def join_states(addresses: Addresses, objects: Sequence[Packed]) -> Packed:
    """Put states of several objects into one."""
    given = open_states(addresses, objects, share=False)
    rows = [entry for entry in given.entries if isinstance(entry, PackedRow)]
    if len(rows) == len(given):
        return join_rows(rows)
    return _pack_together([Kept(s) for s in given.open_each() if s is not None], share=False)


def open_states(addresses: Addresses, objects: Sequence[Packed], *, share: bool) -> GivenStates:
    """Return the states of some clients, which are opened when they are looked at.

    Args:
        addresses: where they are.
        objects: what holds them.
        share: whether Vectors in rows are read in place.
    """
    opened: dict[int, Sequence[PackedRow | KeptState]] = {}

    def find(where: tuple[int, int] | StateFile | None) -> PackedRow | KeptState | None:
        if where is None:
            return None
        if isinstance(where, StateFile):
            return load_state(where)
        number, row = where
        if number not in opened:
            held = objects[number]
            opened[number] = open_parcel(held) if isinstance(held, Parcel) else PackedStates(held)
        return opened[number][row]

    return GivenStates([find(where) for where in addresses.of], share=share)


def open_parcel(parcel: Parcel, *, copy: bool = False) -> Any:
    """Return the message, in private memory except for the shared Vectors.

    Args:
        parcel: the message.
        copy: copies those, too.
    """
    arrays = [array.copy() for array in parcel.arrays]
    return _Opener(parcel, arrays, copy=copy).load()


def put_initial(initial: InitialState | None) -> Ref:
    """Put what models are built from into the object store, whose base all actors of a node read.

    Returns:
        The reference; None if actors build their models without it.
    """
    shared = None if initial is None else initial.for_other_processes()
    return None if shared is None else ray.put(pack(shared, label=0, share=[shared.base]))


class _Packer(ray.cloudpickle.Pickler):
    """Leaves a number in the place of each shared Vector.

    It is cloudpickle's, so that classes of a notebook travel by value.
    """

    def __init__(
        self, file: io.BytesIO, buffers: list[pickle.PickleBuffer], share: Sequence[Vector]
    ) -> None:
        start: Any = super().__init__
        start(file, protocol=5, buffer_callback=buffers.append)
        self._numbers = {id(vector): number for number, vector in enumerate(share)}

    def persistent_id(self, value: object) -> int | None:
        return self._numbers.get(id(value))


class _Opener(pickle.Unpickler):
    """Puts the Vectors back."""

    def __init__(self, parcel: Parcel, arrays: Memory, *, copy: bool) -> None:
        super().__init__(io.BytesIO(parcel.header), buffers=arrays)
        self._shared = [Vector.from_memory(*shared) for shared in parcel.shared]
        if copy:
            self._shared = [vector.clone() for vector in self._shared]

    def persistent_load(self, number: int) -> Vector:
        return self._shared[number]


Ref: TypeAlias = Any
"""A Ray ObjectRef."""


@dataclass(frozen=True)
class SnapshotRefs:
    """The references of a Snapshot, as two Parcels."""

    broadcast: Ref
    state: Ref
