"""DataShape: what models read off the data."""

from __future__ import annotations

import numpy as np
import pytest

from simfl.errors import DataError
from simfl.models import DataShape, data_shape


def test_images_with_classes() -> None:
    shape = data_shape(np.zeros((3, 1, 28, 28), np.float32), np.array([4, 0, 9]))
    assert shape == DataShape(inputs=(1, 28, 28), num_classes=10)


def test_numbers_to_predict_are_no_classes() -> None:
    shape = data_shape(np.zeros((3, 5), np.float32), np.zeros((3, 2), np.float32))
    assert shape == DataShape(inputs=(5,), target_shape=(2,))


def test_sequences_of_tokens() -> None:
    tokens = np.array([[0, 7, 2], [1, 1, 1]])
    shape = data_shape(tokens, tokens[:, 1:])
    assert shape == DataShape(inputs=(3,), target_shape=(2,), num_classes=8, vocabulary=8)


def test_boolean_targets_are_two_classes() -> None:
    assert data_shape(np.zeros((2, 3)), np.array([False, False])).num_classes == 2


def test_several_inputs_keep_their_form() -> None:
    image, tokens = np.zeros((2, 1, 8, 8)), np.array([[3, 1], [0, 2]])
    targets = np.array([0, 1])
    by_position = data_shape((image, tokens), targets)
    assert by_position.inputs == ((1, 8, 8), (2,))
    assert by_position.vocabulary == 4
    by_name = data_shape({"image": image, "tokens": tokens}, targets)
    assert by_name.inputs == {"image": (1, 8, 8), "tokens": (2,)}


@pytest.mark.parametrize(
    ("inputs", "single"),
    [((4, 5), (4, 5)), ((), ()), (((4,), (5,)), None), ({"a": (4,)}, None)],
)
def test_a_single_input_is_distinguished_from_several(inputs, single) -> None:
    assert DataShape(inputs=inputs).single_input == single


def test_data_without_examples_have_no_shape() -> None:
    with pytest.raises(DataError, match="hold no example"):
        data_shape(np.zeros((0, 4)), np.zeros(0))


@pytest.mark.parametrize(
    ("inputs", "targets", "what"),
    [
        (np.zeros((2, 3)), np.array([0, -1]), "targets hold the integer -1"),
        (np.array([[0, -5]]), np.array([0]), "inputs hold the integer -5"),
    ],
)
def test_negative_classes_and_tokens_are_an_error(inputs, targets, what: str) -> None:
    with pytest.raises(DataError, match=what):
        data_shape(inputs, targets)
