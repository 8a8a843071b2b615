"""Parcels: messages as Ray moves them, opened once however often they arrive.

Ray hands an actor its arguments anew with each call, and what lies in the object store is
read-only memory that torch would write through. A parcel keeps a message's arrays apart from the
rest, so that the object store serves them without a copy, and a receiver copies them into memory
of its own only when it opens the parcel.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

__all__ = ["Parcel", "open_parcel", "pack"]


@dataclass(frozen=True)
class Parcel:
    """A pickled message."""

    label: int
    """Which message it is, known without opening it: the round, or the chunk's first position."""
    header: bytes
    """The message without its arrays."""
    arrays: list[np.ndarray[Any, Any]]
    """The memory of its arrays, bytes."""


def pack(message: object, *, label: int) -> Parcel:
    """Pickle a message into a parcel, without copying its arrays."""
    buffers: list[pickle.PickleBuffer] = []
    # cloudpickle, so that classes of a notebook travel by value.
    header = ray.cloudpickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    return Parcel(label, header, [np.frombuffer(b.raw(), np.uint8) for b in buffers])


def open_parcel(parcel: Parcel) -> Any:
    """Return the message, in private memory."""
    return pickle.loads(parcel.header, buffers=[array.copy() for array in parcel.arrays])
