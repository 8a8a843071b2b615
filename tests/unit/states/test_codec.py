import contextlib
import io
import json
import math
import pickle
import struct
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simfl.errors import CheckpointError
from simfl.states import KeptState, OptimizerState, decode_file, encode_file
from simfl.states.codec import decode_tree, encode_tree
from simfl.vector import Vector
from tests.unit.states.state_cases import bits, raw, tensors, values

quick = settings(max_examples=80, deadline=None)


# -- what goes in comes out ----------------------------------------------------------------


@quick
@given(values)
@example({"x": [float("nan"), float("inf"), -float("inf"), -0.0, 5e-324], 3: (), "": {}})
def test_any_value_comes_back_bit_for_bit(value: object) -> None:
    assert bits(decode_file(encode_file(value))) == bits(value)


@quick
@given(values)
def test_a_skeleton_is_json(value: object) -> None:
    skeleton, found = encode_tree(value)
    text = json.dumps(skeleton, allow_nan=False)
    assert bits(decode_tree(json.loads(text), found)) == bits(value)


@quick
@given(values)
def test_the_same_value_makes_the_same_bytes(value: object) -> None:
    again = decode_file(encode_file(value))
    assert encode_file(again) == encode_file(value)


def test_a_key_that_is_text_is_not_a_key_that_is_a_number() -> None:
    value = {1: torch.tensor(1), "1": torch.tensor(2), 10**30: None}
    assert bits(decode_file(encode_file(value))) == bits(value)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_number_of_five_thousand_digits_comes_back(sign: int) -> None:
    # Python itself refuses to print more than 4300 decimal digits, and to read them.
    assert decode_file(encode_file({sign * 10**5000: sign * 7**6000})) == {
        sign * 10**5000: sign * 7**6000
    }


def test_tensors_that_share_memory_come_back_on_their_own() -> None:
    rows = torch.arange(6.0).reshape(2, 3)
    back = decode_file(encode_file({"row": rows[1], "column": rows.T, "all": rows}))
    back["row"].zero_()
    assert back["all"].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert back["column"].tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


def test_a_single_number_of_a_wider_stride_comes_back() -> None:
    number = torch.tensor([5.0, 6.0])[1::2]  # contiguous, says torch, with a stride of 2
    assert decode_file(encode_file([number]))[0].tolist() == [6.0]


def test_a_view_that_is_conjugated_or_negated_keeps_its_numbers() -> None:
    number = torch.tensor([1.0 + 2.0j])
    back = decode_file(encode_file([number.conj(), number.conj().imag]))
    assert back[0].tolist() == [1.0 - 2.0j]
    assert back[1].tolist() == [-2.0]


def test_a_parameter_comes_back_as_a_plain_tensor() -> None:
    (back,) = decode_file(encode_file([torch.nn.Parameter(torch.ones(2))]))
    assert type(back) is torch.Tensor
    assert not back.requires_grad
    assert back.tolist() == [1.0, 1.0]


# -- what cannot be stored -----------------------------------------------------------------


@pytest.mark.parametrize(
    "item",
    [
        {1, 2},
        b"bytes",
        np.float64(1.0),  # a float too, but of a type that would not come back
        OrderedDict(a=1),
        object(),
        1j,
    ],
)
def test_what_would_not_come_back_is_refused_with_its_place(item: object) -> None:
    with pytest.raises(CheckpointError, match=f"^modules/0/x: a {type(item).__name__} cannot be"):
        encode_tree({"modules": [{"x": item}]})


@pytest.mark.parametrize("key", [True, 1.5, None, (1,)])
def test_a_key_that_is_neither_text_nor_whole_number_is_refused(key: object) -> None:
    with pytest.raises(CheckpointError, match=r"^a: the key .* cannot be stored"):
        encode_tree({"a": {key: 1}})


@pytest.mark.parametrize(
    "tensor", [torch.eye(2).to_sparse(), torch.empty(2, device="meta")], ids=["sparse", "meta"]
)
def test_a_tensor_that_is_not_dense_numbers_is_refused(tensor: torch.Tensor) -> None:
    with pytest.raises(CheckpointError, match=r"^x: a tensor of type float32, layout torch"):
        encode_tree({"x": tensor})


def test_a_value_without_end_is_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(CheckpointError, match="nested too deeply"):
        encode_file(endless)


# -- other people's files ------------------------------------------------------------------


@pytest.mark.parametrize(
    "node",
    [
        {"pickle": "gASVCwAAAA=="},
        {"object": "os:system", "args": []},
        {"record": "Popen", "fields": {"args": "true"}},
        {"record": "subprocess.Popen", "fields": {}},
        {"record": "KeptState", "fields": {"num_steps": 1, "modules": {"tuple": []}}},
        {"record": "KeptState", "fields": {"num_steps": 1.0, "modules": [], "regularizers": []}},
        {"record": "KeptState", "fields": []},
        {"tuple": [], "list": []},
        {"tuple": "text"},
        {"dict": [["a", 1], ["a", 2]]},
        {"dict": [[None, 1]]},
        {"dict": [[[1], 1]]},
        {"dict": [["a"]]},
        {"vector": [["a", 1]], "stacked": False},
        {"vector": [], "stacked": 1},
        {"tensor": "absent"},
        {"tensor": "bytes", "dtype": "float32", "shape": [9]},
        {"tensor": "bytes", "dtype": "complex64", "shape": [9]},
        {"tensor": "bytes", "dtype": "complex64", "shape": [-1, -1]},
        {"tensor": "bytes", "dtype": [], "shape": [1]},
        {"int": 5},
        {"int": "five"},
        {"float": "00"},
        {"float": 1.5},
        {},
    ],
    ids=str,
)
def test_a_node_of_unknown_or_malformed_kind_is_refused(node: object) -> None:
    with pytest.raises(CheckpointError, match="node"):
        decode_tree([node], {"bytes": torch.zeros(8, dtype=torch.uint8)})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda items: (
        st.lists(items, max_size=3)
        | st.dictionaries(st.text(max_size=3), items, max_size=2)
        | st.sampled_from(["int", "float", "tuple", "dict", "tensor"]).flatmap(
            lambda tag: st.fixed_dictionaries({tag: items})
        )
        | st.fixed_dictionaries({"vector": items, "stacked": items})
        | st.fixed_dictionaries({"tensor": items, "dtype": items, "shape": items})
        | st.fixed_dictionaries(
            {"record": st.sampled_from(["KeptState", "x"]), "fields": items},
        )
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(json_values)
def test_any_skeleton_gives_a_value_or_a_checkpoint_error(skeleton: object) -> None:
    allowed = (type(None), bool, int, float, str, list, tuple, dict, torch.Tensor, Vector)
    try:
        value = decode_tree(skeleton, {"": torch.zeros(8, dtype=torch.uint8)})
    except CheckpointError:
        return
    assert isinstance(value, (*allowed, KeptState, OptimizerState))


def test_a_skeleton_without_end_is_refused() -> None:
    deep: object = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(CheckpointError, match="malformed"):
        decode_tree(deep, {})


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_bytes_are_refused(protocol: int) -> None:
    data = pickle.dumps({"weights": list(range(100))}, protocol=protocol)
    with pytest.raises(
        CheckpointError, match=r"^old\.pt is damaged, or was not written by simfl: "
    ):
        decode_file(data, name="old.pt")


def test_a_file_of_torch_save_is_refused() -> None:
    file = io.BytesIO()
    torch.save({"w": torch.ones(3)}, file)
    with pytest.raises(CheckpointError):
        decode_file(file.getvalue())


@quick
@given(st.binary(max_size=200))
def test_any_bytes_give_a_checkpoint_error(data: bytes) -> None:
    with pytest.raises(CheckpointError):
        decode_file(data)


SMALL = encode_file({"w": Vector({"a": torch.ones(2), "b": torch.tensor(3)}), "x": math.inf})


@pytest.mark.parametrize("length", range(0, len(SMALL), 7))
def test_a_file_that_is_cut_off_is_refused(length: int) -> None:
    with pytest.raises(CheckpointError):
        decode_file(SMALL[:length])


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(SMALL) - 1), st.integers(0, 255))
def test_a_changed_byte_gives_a_value_or_a_checkpoint_error(position: int, byte: int) -> None:
    """Numbers that changed are for checksums to find; here nothing else may be raised."""
    data = bytearray(SMALL)
    data[position] = byte
    with contextlib.suppress(CheckpointError):
        decode_file(bytes(data))


# -- the safetensors package agrees --------------------------------------------------------


@quick
@given(st.lists(tensors(), max_size=4))
def test_the_safetensors_package_reads_the_tensors(items: list[torch.Tensor]) -> None:
    _, stored = encode_tree(items)
    found = safetensors.torch.load(encode_file(items))
    assert found.keys() == stored.keys()
    for name, tensor in found.items():
        assert (tensor.dtype, tensor.shape) == (stored[name].dtype, stored[name].shape)
        assert raw(tensor) == raw(stored[name])


def test_names_in_the_file_say_where_a_tensor_belongs() -> None:
    weights = Vector({"conv.weight": torch.ones(1), "größe": torch.ones(2)})
    found = safetensors.torch.load(encode_file({"weights": weights, "steps": torch.tensor(1)}))
    assert set(found) == {"weights/conv.weight", "weights/gr\\xf6\\xdfe", "steps"}


def test_what_the_safetensors_package_writes_can_be_read() -> None:
    stored = {"a": torch.arange(3), "b": torch.ones(2, 2, dtype=torch.bfloat16)}
    skeleton = json.dumps([{"tensor": "b"}, {"tensor": "a"}])
    data = safetensors.torch.save(stored, metadata={"simfl": skeleton})
    assert bits(decode_file(data)) == bits([stored["b"], stored["a"]])


def test_a_file_of_others_is_refused_for_its_metadata() -> None:
    data = safetensors.torch.save({"a": torch.ones(1)})
    with pytest.raises(CheckpointError, match="its metadata lack 'simfl'"):
        decode_file(data)


def file_with(header: object, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    ("entries", "data"),
    [
        ({"a": ("U8", [2], [1, 3])}, b"abc"),  # a gap before
        ({"a": ("U8", [2], [0, 2])}, b"abc"),  # bytes that belong to nothing
        ({"a": ("U8", [2], [0, 2]), "b": ("U8", [2], [1, 3])}, b"abc"),  # overlap
        ({"a": ("U8", [4], [0, 4])}, b"abc"),  # beyond the end
        ({"a": ("F32", [1], [0, 3])}, b"abc"),  # a size that does not fit
        ({"a": ("U8", [-3], [0, -3])}, b""),
        ({"a": ("U8", [3.0], [0, 3])}, b"abc"),
        ({"a": ("X8", [3], [0, 3])}, b"abc"),
        ({"a": ("U8", [10**30], [0, 10**30])}, b"abc"),
        ({"a": ("U8", 3, 3)}, b"abc"),
    ],
    ids=str,
)
def test_offsets_that_lie_are_refused(entries: dict[str, tuple[object, ...]], data: bytes) -> None:
    keys = ("dtype", "shape", "data_offsets")
    tensors = {name: dict(zip(keys, entry, strict=True)) for name, entry in entries.items()}
    whole = file_with({"__metadata__": {"simfl": "1"}, **tensors}, data)
    with pytest.raises(CheckpointError):
        decode_file(whole)
