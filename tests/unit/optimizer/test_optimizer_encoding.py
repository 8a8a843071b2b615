import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simfl.optimizer.encoding import decode_state, encode_state
from simfl.vector import Vector

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool]


def through_json(state: dict[str, object]) -> dict[str, object]:
    return decode_state(json.loads(json.dumps(encode_state(state), allow_nan=False)))


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Any memory as numbers: NaN with payloads, infinities, -0.0, denormals."""
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    dtype = draw(st.sampled_from(DTYPES))
    count = int(np.prod(shape, dtype=int))
    size = torch.empty(0, dtype=dtype).element_size() * count
    data = draw(st.binary(min_size=size, max_size=size))
    if dtype == torch.bool:
        data = bytes(byte & 1 for byte in data)
    if not count:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(dtype).reshape(shape)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=4), tensors(), max_size=3), st.booleans())
def test_states_come_back_from_json_bit_for_bit(
    leaves: dict[str, torch.Tensor], stacked: bool
) -> None:
    state = {**leaves, "vector": Vector(leaves, stacked=stacked)}
    back = through_json(state)
    vector = back.pop("vector")
    assert isinstance(vector, Vector)
    assert (vector.names, vector.stacked) == (tuple(leaves), stacked)
    for key, tensor in leaves.items():
        if key == "vector":  # the Vector has taken its place in the state
            continue
        for found in (back[key], vector[key]):
            assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
            assert raw(found) == raw(tensor)


def test_special_numbers_come_back() -> None:
    # 1e-45 is the least denormal of float32; 0x7fc00123 a NaN with a payload.
    payload = struct.unpack("<f", struct.pack("<I", 0x7FC00123))[0]
    special = torch.tensor([np.nan, payload, np.inf, -np.inf, -0.0, 1e-45])
    back = through_json({"x": special})["x"]
    assert raw(back) == raw(special)


def test_the_order_of_names_survives_sorted_keys() -> None:
    state = {"v": Vector({"b": torch.ones(1), "a": torch.zeros(1)})}
    text = json.dumps(encode_state(state), sort_keys=True)
    assert decode_state(json.loads(text))["v"].names == ("b", "a")


def test_a_tensor_that_is_not_contiguous_keeps_its_numbers() -> None:
    transposed = torch.arange(6.0).reshape(2, 3).T
    assert torch.equal(through_json({"x": transposed})["x"], transposed)


def test_what_is_neither_tensor_nor_vector_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="state 'x' is neither"):
        decode_state({"x": {"number": 1}})
