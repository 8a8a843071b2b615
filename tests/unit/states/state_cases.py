"""Values and states that the tests of this folder and of checkpoints share."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from simfl.states import KeptState, OptimizerState
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


def kept(number: float) -> KeptState:
    own = Vector({"w": torch.full((3,), number), "b": torch.tensor(number, dtype=torch.float64)})
    return KeptState(int(number), ({"own": own, "is_new": torch.tensor(False)},), ())


def alterations(data: bytes, position: int) -> list[bytes]:
    """Return a file with a byte flipped, zeroed or taken out; cut off there; one byte longer."""
    before, after = data[:position], data[position + 1 :]
    byte = data[position]
    flipped = [before + bytes([byte ^ 1 << bit]) + after for bit in (0, 5, 7)]
    zeroed = [before + b"\0" + after] if byte else []
    return [*flipped, *zeroed, before + after, before, data + b"\n"]


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
