"""Parcels: messages as Ray moves them, opened once however often they arrive.

Ray hands an actor its arguments anew with each call, and what lies in the object store is
read-only memory that torch would write through. A parcel keeps a message's arrays apart from the
rest, so that the object store serves them without a copy, and a receiver copies them into memory
of its own when it opens the parcel; all but those of Vectors that were lent, which it only reads.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import ray

from simfl.messages import Broadcast, Kept, Retained
from simfl.optimizer import KeptState
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
    lent: list[tuple[Layout, Memory]]
    """The Vectors that are read where they lie."""


def pack(message: object, *, label: int, lend: Sequence[Vector] = ()) -> Parcel:
    """Pickle a message into a parcel, without copying its arrays.

    Args:
        message: anything that can be pickled.
        label: which message it is.
        lend: those of its Vectors that the receiver is to borrow, and promises only to read.
    """
    header = io.BytesIO()
    buffers: list[pickle.PickleBuffer] = []
    packer: Any = _Packer(header, buffers, lend)
    packer.dump(message)
    arrays = [np.frombuffer(b.raw(), np.uint8) for b in buffers]
    return Parcel(label, header.getvalue(), arrays, [vector.lend() for vector in lend])


def pack_broadcast(broadcast: Broadcast, *, lend_aux: bool) -> Parcel:
    """Pack a broadcast for any number of readers: all borrow the same weights.

    Args:
        broadcast: to be packed.
        lend_aux: whether they borrow the auxiliary variables, too: those are the plug-ins'.
    """
    lent = [broadcast.weights, *(find_vectors(broadcast.aux) if lend_aux else [])]
    return pack(broadcast, label=broadcast.round, lend=lent)


def pack_states(
    states: Mapping[int, Retained[KeptState]], *, lend: bool
) -> dict[int, Retained[Parcel]]:
    """Pack what each client's optimizer keeps, for whichever actor trains it next.

    Args:
        states: by client id, which becomes the label.
        lend: whether the reader borrows all Vectors.
    """
    packed: dict[int, Retained[Parcel]] = {}
    for client, one in states.items():
        if isinstance(one, Kept):
            vectors = find_vectors(one.state) if lend else []
            packed[client] = Kept(pack(one.state, label=client, lend=vectors))
        else:
            packed[client] = one
    return packed


def open_parcel(parcel: Parcel, *, borrow: bool = True) -> Any:
    """Return the message, in private memory but for the Vectors that were lent.

    Args:
        parcel: the message.
        borrow: False copies those, too.
    """
    arrays = [array.copy() for array in parcel.arrays]
    return _Opener(parcel, arrays, borrow=borrow).load()


class _Packer(ray.cloudpickle.Pickler):
    """Leaves a number in the place of each Vector that is lent.

    It is cloudpickle's, so that classes of a notebook travel by value.
    """

    def __init__(
        self, file: io.BytesIO, buffers: list[pickle.PickleBuffer], lend: Sequence[Vector]
    ) -> None:
        start: Any = super().__init__
        start(file, protocol=5, buffer_callback=buffers.append)
        self._numbers = {id(vector): number for number, vector in enumerate(lend)}

    def persistent_id(self, value: object) -> int | None:
        return self._numbers.get(id(value))


class _Opener(pickle.Unpickler):
    """Puts the Vectors back."""

    def __init__(self, parcel: Parcel, arrays: Memory, *, borrow: bool) -> None:
        super().__init__(io.BytesIO(parcel.header), buffers=arrays)
        self._lent = [Vector.borrow(*lent) for lent in parcel.lent]
        if not borrow:
            self._lent = [vector.clone() for vector in self._lent]

    def persistent_load(self, number: int) -> Vector:
        return self._lent[number]
