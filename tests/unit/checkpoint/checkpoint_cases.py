"""Values, storages and checkpoints that the tests of this folder share."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from simfl.checkpoint import Checkpoint, ShardInfo, Storage, write_checkpoint, write_shard
from simfl.errors import CheckpointError
from simfl.optimizer import KeptState, OptimizerState
from simfl.vector import Vector

DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.complex64,
    torch.complex128,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def bits(value: Any) -> Any:
    """Describe a value so that two are equal where types, order and every bit are."""
    if isinstance(value, torch.Tensor):
        return ("tensor", str(value.dtype), tuple(value.shape), raw(value))
    if isinstance(value, Vector):
        return ("vector", value.stacked, [(name, bits(t)) for name, t in value.items()])
    if isinstance(value, float):
        return ("float", struct.pack("<d", value))
    if isinstance(value, dict):
        return ("dict", [(bits(key), bits(item)) for key, item in value.items()])
    if isinstance(value, list | tuple):
        return (type(value), [bits(item) for item in value])
    if dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value)]
        return (type(value), [(name, bits(getattr(value, name))) for name in fields])
    return (type(value), value)


# -- any value -----------------------------------------------------------------------------


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Any memory as numbers: NaN with payloads, infinities, -0.0, denormals, 0-d, empty."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    size = dtype.itemsize * torch.Size(shape).numel()
    data = bytearray(draw(st.binary(min_size=size, max_size=size)))
    if not size:
        return torch.empty(shape, dtype=dtype)
    if dtype == torch.bool:
        data = bytearray(byte & 1 for byte in data)
    return torch.frombuffer(data, dtype=torch.uint8).view(dtype).reshape(shape)


names = st.text(max_size=4) | st.sampled_from(["__metadata__", "value", "a/b", "a", "b"])
vectors = st.builds(
    lambda named, stacked: Vector(named, stacked=stacked),
    st.dictionaries(names, tensors(), max_size=3),
    st.booleans(),
)
plugin_states = st.lists(st.dictionaries(names, vectors | tensors(), max_size=2), max_size=2).map(
    tuple
)
integers = st.integers() | st.integers(2**62, 2**66)
nan_payloads = st.integers(1, 2**51 - 1).map(
    lambda payload: struct.unpack("<d", struct.pack("<Q", (0xFFF8 << 48) | payload))[0]
)
scalars = st.none() | st.booleans() | integers | st.floats() | nan_payloads | st.text(max_size=5)
kept_states = st.builds(KeptState, st.integers(), plugin_states, plugin_states)
optimizer_states = st.builds(
    OptimizerState,
    *[st.integers(-1, 2**63) for _ in range(5)],
    modules=plugin_states,
    regularizers=plugin_states,
)
leaves = scalars | tensors() | vectors | kept_states | optimizer_states
values = st.recursive(
    leaves,
    lambda items: (
        st.lists(items, max_size=3)
        | st.lists(items, max_size=3).map(tuple)
        | st.dictionaries(names | st.integers(), items, max_size=3)
    ),
    max_leaves=6,
)


# -- a run's checkpoints -------------------------------------------------------------------


def kept(number: float) -> KeptState:
    own = Vector({"w": torch.full((3,), number), "b": torch.tensor(number, dtype=torch.float64)})
    return KeptState(int(number), ({"own": own, "is_new": torch.tensor(False)},), ())


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

    def read(self, name: str) -> bytes:
        return self._storage.read(name)

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        return self._storage.read_range(name, start, stop)

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


def alterations(data: bytes, position: int) -> list[bytes]:
    """Return a file with a byte flipped, zeroed or taken out; cut off there; one byte longer."""
    before, after = data[:position], data[position + 1 :]
    byte = data[position]
    flipped = [before + bytes([byte ^ 1 << bit]) + after for bit in (0, 5, 7)]
    zeroed = [before + b"\0" + after] if byte else []
    return [*flipped, *zeroed, before + after, before, data + b"\n"]


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
