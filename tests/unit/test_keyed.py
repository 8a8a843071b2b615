"""Vectors by key: sums by hand."""

from __future__ import annotations

import pickle

import pytest
import torch

from simfl.errors import VectorError
from simfl.vector import Keyed, Vector, count_bytes, is_finite, move


def keyed(keys: list[int], *rows: float) -> Keyed:
    values = torch.tensor(rows).reshape(len(rows), 1)
    return Keyed(keys, Vector({"w": values}, stacked=True))


def as_dict(value: Keyed) -> dict[int, float]:
    return {key: float(value[key]["w"]) for key in value.keys}


def test_vectors_of_the_same_key_are_added_up() -> None:
    total = keyed([5, 3], 1.0, 2.0) + keyed([3, 7], 10.0, 20.0)
    assert as_dict(total) == {3: 12.0, 5: 1.0, 7: 20.0}
    assert total.keys == (3, 5, 7)


def test_sums_do_not_depend_on_the_grouping() -> None:
    a, b, c = keyed([1], 1.0), keyed([2, 1], 2.0, 4.0), keyed([2], 8.0)
    assert as_dict((a + b) + c) == as_dict(a + (b + c)) == {1: 5.0, 2: 10.0}


def test_rows_of_a_stack_are_chosen_before_they_are_added_up() -> None:
    stack = keyed([4, 4, 2], 1.0, 2.0, 4.0)
    assert as_dict(stack.merged()) == {2: 4.0, 4: 3.0}
    assert as_dict(stack.rows([0, 2]).merged()) == {2: 4.0, 4: 1.0}


def test_a_single_client_has_one_key() -> None:
    one = Keyed(torch.tensor(6), Vector({"w": torch.tensor([1.5])}))
    assert as_dict(one) == {6: 1.5}
    assert 6 in one
    assert 5 not in one


def test_it_is_a_value_like_a_vector() -> None:
    value = keyed([1, 2], 1.0, float("inf"))
    assert count_bytes({"sums": value}) == 8
    assert is_finite(value).tolist() == [True, False]
    assert as_dict(move(value, "cpu")) == as_dict(pickle.loads(pickle.dumps(value)))


def test_keys_are_integers() -> None:
    with pytest.raises(VectorError, match=r"keys are torch.float64, but must be integers"):
        Keyed(torch.tensor([0.5], dtype=torch.float64), Vector({"w": torch.ones(1)}))
