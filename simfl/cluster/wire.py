"""Parcels: messages in the form in which Ray moves them, opened only once.

Ray unpickles an actor's arguments with each call, and the object store's memory is read-only,
although torch would write to it. A parcel keeps a message's arrays apart from the rest, so that
the object store serves them without a copy, and a receiver copies them into its own memory when it
opens the parcel; except those of shared Vectors, which are read-only.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import ray

from simfl.messages import Broadcast
from simfl.models.base import InitialState
from simfl.states import Kept, KeptState, Retained
from simfl.vector import Layout, Vector, find_vectors

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


def pack_states(
    states: Mapping[int, Retained[KeptState]], *, share: bool
) -> dict[int, Retained[Parcel]]:
    """Pack what each client's optimizer keeps, for whichever actor trains it next.

    Args:
        states: by client id, which becomes the label.
        share: whether the reader reads all Vectors in place.
    """
    packed: dict[int, Retained[Parcel]] = {}
    for client, one in states.items():
        if isinstance(one, Kept):
            vectors = find_vectors(one.state) if share else []
            packed[client] = Kept(pack(one.state, label=client, share=vectors))
        else:
            packed[client] = one
    return packed


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
