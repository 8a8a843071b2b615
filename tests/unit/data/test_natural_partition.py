"""Clients as the data name them."""

import itertools

import numpy as np
import pytest

from simfl.data import Natural
from simfl.errors import DataError


def clients_of(rows, offsets):
    return [rows[a:b].tolist() for a, b in itertools.pairwise(offsets)]


def test_text_ids_are_clients_in_sorted_order_with_rows_in_file_order():
    columns = {"client": np.array(["b", "a", "b", "c", "a"])}
    split = Natural().split(np.zeros(5), columns, seed=0)
    assert clients_of(*split) == [[1, 4], [0, 2], [3]]


def test_numbers_are_sorted_as_numbers_and_may_have_gaps():
    columns = {"client": np.array([100, 20, 3, 20])}
    assert clients_of(*Natural().split(np.zeros(4), columns, seed=0)) == [[2], [1, 3], [0]]


def test_another_column_can_be_used():
    columns = {"client": np.array([0, 1]), "region": np.array(["north", "north"])}
    assert clients_of(*Natural(column="region").split(np.zeros(2), columns, seed=0)) == [[0, 1]]


def test_a_column_that_is_not_there_is_named_with_the_nearest():
    with pytest.raises(DataError) as caught:
        Natural(column="regoin").split(np.zeros(1), {"region": np.zeros(1)}, seed=0)
    assert str(caught.value) == (
        "data.partition.column: no column named 'regoin'. Did you mean 'region'?"
    )


def test_a_source_without_columns_is_reported():
    with pytest.raises(DataError, match=r"no column named 'client'\. The source has no columns"):
        Natural().split(np.zeros(1), {}, seed=0)


def test_a_row_without_a_client_is_refused():
    columns = {"client": np.array([1.0, np.nan])}
    with pytest.raises(DataError, match="'client' is NaN at row 1"):
        Natural().split(np.zeros(2), columns, seed=0)
