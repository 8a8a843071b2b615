"""Columns and class ids made from arrays."""

import numpy as np
import pytest

from simfl.data.arrays import as_column, as_inputs, as_targets
from simfl.errors import DataError


def test_float32_inputs_are_not_copied():
    inputs = np.zeros((3, 2), np.float32)
    assert as_inputs(inputs, what="inputs") is inputs


def test_a_number_too_large_for_float32_becomes_infinite_without_a_warning():
    assert as_inputs(np.array([1e300]), what="inputs").tolist() == [np.inf]


def test_integers_beyond_those_of_torch_are_refused():
    assert as_inputs(np.array([7], np.uint64), what="inputs").dtype == np.int64
    huge = np.array([1, 2**63], np.uint64)
    with pytest.raises(DataError, match="inputs contains the integer 9223372036854775808"):
        as_inputs(huge, what="inputs")
    with pytest.raises(DataError, match="targets contains the integer 9223372036854775808"):
        as_targets(huge, what="targets")


def test_tensors_are_taken_as_arrays():
    torch = pytest.importorskip("torch")
    inputs = as_inputs(torch.arange(4.0).reshape(2, 2), what="inputs")
    assert isinstance(inputs, np.ndarray)
    assert inputs.tolist() == [[0, 1], [2, 3]]


def test_bytes_that_are_no_text_are_refused_in_a_line():
    with pytest.raises(DataError, match="targets contains bytes that are not UTF-8 text"):
        as_targets(np.array([b"\xff\xfe", b"a"]), what="targets")
    with pytest.raises(DataError, match="column contains bytes that are not UTF-8 text"):
        as_column(np.array([b"\xff", b"a"]), what="column")


def test_bytes_targets_are_text():
    targets, names = as_targets(np.array([b"b", b"a"]), what="targets")
    assert names == ("a", "b")
    assert targets.tolist() == [1, 0]


def test_bool_targets_are_class_ids():
    targets, names = as_targets(np.array([True, False]), what="targets")
    assert targets.tolist() == [1, 0]
    assert targets.dtype == np.int64
    assert names == ()


@pytest.mark.parametrize(
    "value", [np.array([{}]), np.array(["2020-01-01"], "datetime64[D]"), np.array([1j])]
)
def test_a_column_of_other_values_is_refused(value):
    with pytest.raises(DataError, match="a column holds numbers or text"):
        as_column(value, what="column 'when'")
