"""Building a data set from a source and a partition."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from simfl.data import (
    IID,
    Digits,
    Dirichlet,
    Examples,
    Natural,
    Partition,
    Source,
    SourceData,
    build_dataset,
)
from simfl.errors import ConfigError, DataError
from simfl.scenario import load_scenario


@dataclass(frozen=True)
class InMemory(Source):
    """A source of arrays given to it; it has no name, so it isn't registered."""

    data: Any

    def load(self, *, seed):
        return self.data


def examples(n=4, dtype=np.float32):
    return Examples(np.arange(n * 2).reshape(n, 2).astype(dtype), np.arange(n) % 2)


def build(data, partition=None, **fractions):
    return build_dataset(InMemory(data), partition, seed=0, **fractions)


def test_all_sources_and_partitions_are_registered_by_their_names():
    sources = {"csv", "digits", "huggingface", "npz", "python", "synthetic"}
    assert sources <= set(Source.registry)
    partitions = {"dirichlet", "flwr", "iid", "natural", "quantity", "shards"}
    assert partitions <= set(Partition.registry)


def test_without_test_split_or_holdout_clients_train_on_every_example():
    dataset = build_dataset(Digits(), IID(clients=10), seed=0)
    assert dataset.num_clients == 10
    assert dataset.num_train_examples().sum() == 1797
    assert all(len(dataset.holdout_rows(client)) == 0 for client in range(10))
    assert dataset.test is None
    assert dataset.class_names == tuple("0123456789")


def test_without_a_partition_the_sources_column_client_is_used():
    dataset = build(SourceData(examples(), columns={"client": np.array([5, 3, 5, 5])}))
    assert dataset.num_clients == 2
    assert dataset.train_rows(0).tolist() == [1]
    assert dataset.train_rows(1).tolist() == [0, 2, 3]


def test_a_test_fraction_takes_examples_and_columns_out_of_train():
    columns = {"client": np.arange(100) // 50, "row": np.arange(100)}
    data = SourceData(Examples(np.arange(100), np.arange(100) % 2), columns=columns)
    dataset = build(data, test_fraction=0.2)
    assert len(dataset.test) == 20
    assert sorted([*dataset.train.inputs, *dataset.test.inputs]) == list(range(100))
    # The clients' rows still are theirs: inputs under 50 are client 0's.
    assert dataset.train.inputs[dataset.train_rows(0)].max() < 50
    assert dataset.train.inputs[dataset.train_rows(1)].min() >= 50


def test_public_examples_are_a_share_of_each_class_that_no_client_has():
    columns = {"client": np.arange(100) // 50}
    data = SourceData(Examples(np.arange(100), np.arange(100) % 2), columns=columns)
    dataset = build(data, test_fraction=0.2, public=0.25)
    parts = [dataset.train, dataset.test, dataset.public]
    assert [len(part) for part in parts] == [60, 20, 20]  # a quarter of the 80 that are left
    assert sorted(row for part in parts for row in part.inputs) == list(range(100))
    assert np.bincount(dataset.public.targets).tolist() == [10, 10]
    assert dataset.train.inputs[dataset.train_rows(0)].max() < 50


def test_public_examples_may_come_from_another_source():
    other = InMemory(SourceData(examples(6)))
    dataset = build(SourceData(examples(4)), IID(clients=2), public=other)
    assert dataset.num_train_examples().sum() == 4
    assert dataset.public.inputs.tolist() == examples(6).inputs.tolist()
    without = build(SourceData(examples(4)), IID(clients=2))
    assert dataset.digest() != without.digest()
    assert dataset.without_examples().public is None


def test_public_examples_that_differ_from_the_others_are_refused():
    other = InMemory(SourceData(examples(6, dtype=np.float64)))
    with pytest.raises(DataError, match="public"):
        build(SourceData(examples(4)), IID(clients=2), public=other)
    with pytest.raises(ConfigError, match=r"data\.public is 0\.01, which leaves no public example"):
        build(SourceData(examples(4)), IID(clients=2), public=0.01)


def test_inputs_of_several_arrays_are_split_alike():
    inputs = {"x": np.arange(20), "twice": 2 * np.arange(20)}
    data = SourceData(Examples(inputs, np.arange(20) % 2))
    test = build(data, IID(clients=2), test_fraction=0.5).test
    assert (test.inputs["twice"] == 2 * test.inputs["x"]).all()
    assert (test.targets == test.inputs["x"] % 2).all()


def test_the_same_seed_builds_the_same_data_set_and_another_seed_another():
    def built(seed):
        dataset = build_dataset(
            Digits(), Dirichlet(clients=5, alpha=1.0), seed=seed, test_fraction=0.1,
            holdout_fraction=0.2,
        )  # fmt: skip
        return [dataset.rows, dataset.holdout_offsets, dataset.test.inputs]

    same = [np.array_equal(a, b) for a, b in zip(built(1), built(1), strict=True)]
    other = [np.array_equal(a, b) for a, b in zip(built(1), built(2), strict=True)]
    assert same == [True, True, True]
    assert other == [False, False, False]


def test_holdout_is_the_last_part_of_each_clients_examples():
    columns = {"client": np.repeat([0, 1, 2], [10, 5, 1])}
    data = SourceData(examples(16), columns=columns)
    dataset = build(data, holdout_fraction=0.3)
    # floor(0.3 * 10), floor(0.3 * 5), floor(0.3 * 1)
    assert [len(dataset.holdout_rows(client)) for client in range(3)] == [3, 1, 0]
    for client in range(3):
        both = [*dataset.train_rows(client), *dataset.holdout_rows(client)]
        assert sorted(both) == np.flatnonzero(columns["client"] == client).tolist()


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5, float("nan")])
@pytest.mark.parametrize("name", ["test_fraction", "holdout_fraction", "public"])
def test_a_fraction_outside_its_range_is_refused(name, fraction):
    with pytest.raises(ConfigError, match=f"data.{name} is {fraction}; it must be at least 0"):
        build(SourceData(examples()), IID(clients=1), **{name: fraction})


def test_a_test_fraction_on_top_of_a_test_split_is_refused():
    data = SourceData(examples(), test=examples())
    with pytest.raises(ConfigError, match=r"test_fraction is 0\.5, but the source has its own"):
        build(data, IID(clients=1), test_fraction=0.5)


def test_a_missing_partition_is_reported_with_what_to_write():
    with pytest.raises(DataError, match=r"data\.partition is missing, .* such as iid with a"):
        build(SourceData(examples()))


def test_a_partition_gets_the_examples_that_remain_after_the_test_split():
    with pytest.raises(ConfigError, match="clients is 80, but there are 50 training examples"):
        build(SourceData(examples(100)), IID(clients=80), test_fraction=0.5)


def with_inputs(inputs):
    return SourceData(Examples(inputs, np.array([0, 1, 0])))


BAD = np.array([[0, 0], [1, 1], [2, np.nan]], np.float32)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (SourceData(examples(0)), "there are no training examples"),
        (SourceData(examples(), test=examples(0)), "there are no test examples"),
        (with_inputs(np.zeros((2, 2))), "the training inputs has 2 rows, but there are 3 targets"),
        (with_inputs({"a": np.zeros(3), "b": np.zeros(4)}), r"training inputs\.b has 4 rows"),
        (with_inputs((np.zeros(3), np.zeros(4))), r"training inputs\[1\] has 4 rows"),
        (with_inputs(BAD), "the training inputs hold nan at row 2; fill in"),
        (with_inputs({"a": BAD}), r"the training inputs\.a hold nan at row 2"),
        (
            SourceData(Examples(np.zeros(2), np.array([0, -np.inf]))),
            "the training targets hold -inf at row 1",
        ),
        (
            SourceData(examples(3), test=Examples(BAD, np.zeros(3, int))),
            "the test inputs hold nan at row 2",
        ),
        (
            SourceData(examples(), columns={"client": np.zeros(3)}),
            "column 'client' has 3 values, but there are 4 training examples",
        ),
        (
            SourceData(examples(), test=Examples(np.zeros((1, 3), np.float32), np.zeros(1, int))),
            r"the test inputs are float32 of shape \(3,\) per example, but .* of shape \(2,\)",
        ),
        (
            SourceData(examples(), test=examples(dtype=np.int64)),
            r"the test inputs are int64 of shape \(2,\) per example, but .* float32",
        ),
        (
            SourceData(examples(), test=Examples({"a": np.zeros(1)}, np.zeros(1, int))),
            r"the test examples have inputs\.a, which the training examples lack",
        ),
        (
            SourceData(
                Examples({"a": np.zeros(1), "b": np.zeros(1)}, np.zeros(1)),
                test=Examples({"a": np.zeros(1)}, np.zeros(1)),
            ),
            r"the test examples lack inputs\.b, which the training examples have",
        ),
    ],
)
def test_data_that_training_would_fail_on_are_refused(data, message):
    with pytest.raises(DataError, match=message):
        build(data, IID(clients=1))


def test_the_row_of_a_nan_is_right_beyond_the_first_chunk(monkeypatch):
    monkeypatch.setattr("simfl.data.source._CHUNK_CELLS", 4)
    inputs = np.zeros((7, 2), np.float32)
    inputs[5, 1] = np.inf
    with pytest.raises(DataError, match="hold inf at row 5"):
        build(SourceData(Examples(inputs, np.zeros(7, int))), IID(clients=1))


@dataclass(frozen=True)
class Fixed(Partition):
    """A partition that returns what it is given."""

    rows: Any
    offsets: Any

    def split(self, targets, columns, *, seed):
        return self.rows, self.offsets


# Named only now: a class that has a name when it is made registers itself for all tests.
Fixed.name = "fixed"


@pytest.mark.parametrize(
    ("rows", "offsets", "message"),
    [
        ((0, 1), (0, 1, 1, 2), "left client 1 without examples"),
        ((0, 1), (0, 2, 1, 2), "left client 1 without examples"),
        ((0, 4), (0, 2), "returned row 4, but there are 4 examples"),
        ((0, 1, 1), (0, 2, 3), "returned row 1 2 times"),
        ((0, 1), (0, 1), "returned offsets that don't go from 0 to its 2 rows"),
        ((), (0,), "returned offsets that don't go from 0 to its 0 rows"),
        ((0, -1), (0, 2), "returned row -1, but there are 4 examples"),
        (
            (0.0, 1.0),
            (0, 2),
            r"returned rows of float64 and shape \[2\]; they must be a 1-D array of int",
        ),
        ((True, False), (0, 2), r"returned rows of bool and shape \[2\]"),
        (((0, 1), (2, 3)), (0, 2), r"returned rows of int64 and shape \[2, 2\]"),
        (((0, 1), (2,)), (0, 2), "returned rows of several lengths"),
        ((0, 1), (0.0, 2.0), r"returned offsets of float64"),
        ((0, 1), None, r"returned offsets of object and shape \[\]"),
    ],
)
def test_a_partition_of_ones_own_that_is_wrong_is_refused(rows, offsets, message):
    with pytest.raises(DataError, match=message):
        build(SourceData(examples()), Fixed(rows, offsets))


@dataclass(frozen=True)
class Miscounting(Fixed):
    """A partition that makes other clients than it says."""

    @property
    def num_clients(self):
        return 3


Miscounting.name = "miscounting"


def test_a_partition_with_another_number_of_clients_than_declared_is_refused():
    with pytest.raises(DataError, match=r"'miscounting' made 2 clients, but its num_clients is 3"):
        build(SourceData(examples()), Miscounting((0, 1), (0, 1, 2)))


@pytest.mark.parametrize(("split", "kind"), [(None, "NoneType"), ((0, 1, 2), "tuple")])
def test_a_partition_that_returns_no_pair_is_refused(monkeypatch, split, kind):
    monkeypatch.setattr(Fixed, "split", lambda *args, **options: split)
    with pytest.raises(DataError, match=rf"'fixed' returned {kind}; it must return \(rows, offset"):
        build(SourceData(examples()), Fixed((), ()))


def test_a_partition_may_leave_rows_out():
    dataset = build(SourceData(examples()), Fixed((3, 0), (0, 1, 2)))
    assert dataset.train_rows(0).tolist() == [3]
    assert dataset.train_rows(1).tolist() == [0]


def test_natural_clients_can_be_those_of_another_column():
    data = SourceData(examples(), columns={"site": np.array(["b", "a", "b", "a"])})
    assert build(data, Natural(column="site")).train_rows(0).tolist() == [1, 3]


def test_a_seed_of_the_datas_own_gives_one_data_set_to_runs_of_several_seeds():
    plain = {
        "rounds": 1,
        "data": {
            "source": "synthetic",
            "clients": 5,
            "test_fraction": 0.2,
            "holdout_fraction": 0.2,
        },
        "model": {"kind": "logistic"},
        "client": {"optimizer": {"lrate": 0.1}},
    }

    def digest(seed, data_seed=None):
        data = plain["data"] | ({} if data_seed is None else {"seed": data_seed})
        return load_scenario(plain | {"seed": seed, "data": data}).build_dataset().digest()

    assert digest(1) != digest(2)
    assert digest(1, data_seed=7) == digest(2, data_seed=7) == digest(7)
    assert digest(1, data_seed=7) != digest(1, data_seed=0) == digest(0)
