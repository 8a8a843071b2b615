"""Arrays of .npz files, good and bad ones."""

import os

import numpy as np
import pytest

from simfl.data import CsvFile, NpzFile
from simfl.errors import DataError

INPUTS = np.arange(12.0).reshape(4, 3)
TARGETS = np.array([0, 1, 2, 1], np.int32)


@pytest.fixture
def load(tmp_path):
    """Write arrays to a file, then load it."""

    def write_and_load(arrays, **fields):
        path = tmp_path / "data.npz"
        np.savez(path, **arrays)
        return NpzFile(path=str(path), **fields).load(seed=0)

    return write_and_load


def test_floats_become_float32_and_class_ids_int64(load):
    data = load({"inputs": INPUTS, "targets": TARGETS})
    assert data.train.inputs.dtype == np.float32
    assert data.train.inputs.tolist() == INPUTS.tolist()
    assert data.train.targets.dtype == np.int64
    assert data.train.targets.tolist() == [0, 1, 2, 1]
    assert data.test is None
    assert data.columns == {}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("float16", "float32"),
        ("uint8", "uint8"),
        ("int32", "int32"),
        ("int64", "int64"),
        ("int16", "int64"),
        ("uint16", "int64"),
        ("bool", "bool"),
    ],
)
def test_inputs_keep_integers_and_widen_those_that_torch_lacks(load, before, after):
    assert load({"inputs": INPUTS.astype(before), "targets": TARGETS}).train.inputs.dtype == after


def test_float_targets_become_float32(load):
    assert load({"inputs": INPUTS, "targets": INPUTS}).train.targets.dtype == np.float32


def test_text_targets_become_class_ids_in_sorted_order(load):
    data = load(
        {
            "inputs": INPUTS,
            "targets": np.array(["cat", "ant", "dog", "ant"]),
            "test_inputs": INPUTS[:1],
            "test_targets": np.array(["dog"]),
        }
    )
    assert data.class_names == ("ant", "cat", "dog")
    assert data.train.targets.tolist() == [1, 0, 2, 0]
    assert data.test.targets.tolist() == [2]


def test_a_class_that_only_the_test_split_has_is_refused(load):
    arrays = {"inputs": INPUTS, "targets": np.array(["a", "b", "a", "b"])}
    with pytest.raises(DataError, match=r"test_targets holds the class 'c'; the training .* a, b"):
        load({**arrays, "test_inputs": INPUTS[:1], "test_targets": np.array(["c"])})


def test_class_names_can_be_given(load):
    data = load({"inputs": INPUTS, "targets": TARGETS, "class_names": np.array(["x", "y", "z"])})
    assert data.class_names == ("x", "y", "z")
    assert data.train.targets.tolist() == [0, 1, 2, 1]


def test_other_arrays_with_a_value_per_example_are_columns(load):
    arrays = {"inputs": INPUTS, "targets": TARGETS, "region": np.array(["n", "s", "n", "n"])}
    data = load({**arrays, "client": np.array([7, 7, 8, 9])})
    assert sorted(data.columns) == ["client", "region"]
    assert data.columns["client"].tolist() == [7, 7, 8, 9]


def test_several_inputs_are_a_dict_by_name(load):
    arrays = {"inputs.words": np.zeros((4, 5), np.int64), "inputs.mask": np.ones((4, 5), bool)}
    test = {"test_inputs.words": np.zeros((1, 5), int), "test_inputs.mask": np.ones((1, 5), bool)}
    data = load({**arrays, "targets": TARGETS, **test, "test_targets": TARGETS[:1]})
    assert data.train.inputs["words"].shape == (4, 5)
    assert data.train.inputs["mask"].dtype == bool
    assert sorted(data.test.inputs) == ["mask", "words"]


def test_bytes_stay_bytes(load):
    data = load({"inputs": np.array([[0], [51], [255], [102]], np.uint8), "targets": TARGETS})
    assert data.train.inputs.dtype == np.uint8
    assert data.train.inputs[:, 0].tolist() == [0, 51, 255, 102]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"targets": TARGETS}, "has no array 'inputs'; it holds targets"),
        ({"inputs": INPUTS}, "has no array 'targets'; it holds inputs"),
        (
            {"inputs": INPUTS, "targets": TARGETS, "test_inputs": INPUTS},
            "has no array 'test_targets'; it holds inputs, targets, test_inputs",
        ),
        (
            {"inputs": INPUTS, "targets": TARGETS, "test_targets": TARGETS},
            "has no array 'test_inputs'",
        ),
        (
            {"inputs": INPUTS, "inputs.a": INPUTS, "targets": TARGETS},
            r"holds both 'inputs' and 'inputs\.a'; leave one out",
        ),
        (
            {"inputs": INPUTS, "targets": TARGETS, "test_input": INPUTS[:2]},
            r"array 'test_input' has shape \(2, 3\), .* 4 training .*mean 'test_inputs'\?",
        ),
        (
            {"inputs": INPUTS, "targets": TARGETS, "client": np.zeros(3)},
            r"array 'client' has shape \(3,\), but a column has one value for each of the 4",
        ),
        (
            {"inputs": INPUTS, "targets": TARGETS, "pairs": np.zeros((4, 2))},
            r"'pairs' has shape \(4, 2\); a column has one value per example",
        ),
        (
            {"inputs": np.array(["a", "b", "c", "d"]), "targets": TARGETS},
            "inputs holds text; numbers are needed",
        ),
        (
            {"inputs": INPUTS.astype(complex), "targets": TARGETS},
            "inputs holds complex128 values; numbers are needed",
        ),
        ({"inputs": np.array(1.0), "targets": TARGETS}, "inputs is the single value 1.0; an axis"),
        (
            {"inputs": np.array([{}, 1, 2, 3], object), "targets": TARGETS},
            "array 'inputs' cannot be read .*[Oo]bject arrays cannot be loaded",
        ),
    ],
)
def test_a_file_with_invalid_arrays_is_refused(load, arrays, message):
    with pytest.raises(DataError, match=message):
        load(arrays)


def test_a_missing_file_is_named(tmp_path):
    path = str(tmp_path / "none.npz")
    with pytest.raises(DataError) as caught:
        NpzFile(path=path).load(seed=0)
    assert str(caught.value) == f"there is no file {path}"


@pytest.mark.parametrize("content", [b"", b"not an archive", b"\x93NUMPY\x01\x00"])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"is not a \.npz file; write one with numpy\.savez"):
        NpzFile(path=str(path)).load(seed=0)


def test_a_single_array_file_is_refused(tmp_path):
    path = tmp_path / "data.npy"
    np.save(path, INPUTS)
    with pytest.raises(DataError, match=r"is not a \.npz file"):
        NpzFile(path=str(path)).load(seed=0)


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, inputs=np.zeros((100, 100)), targets=TARGETS)
    content = bytearray(path.read_bytes())
    content[5000] ^= 0xFF  # within the first array's bytes: its checksum no longer fits
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        NpzFile(path=str(path)).load(seed=0)


def test_an_archive_of_other_files_is_refused(tmp_path):
    import zipfile

    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(DataError, match=r"'readme\.txt' is not an array"):
        NpzFile(path=str(path)).load(seed=0)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for source in (NpzFile(path=str(tmp_path / "pipe")), CsvFile(str(tmp_path / "pipe"), "y")):
        with pytest.raises(DataError, match="pipe cannot be read: it is a named pipe, not a regul"):
            source.load(seed=0)
