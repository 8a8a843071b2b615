"""Partitioners of flwr-datasets, run for real."""

import itertools
import sys

import numpy as np
import pytest

from simfl.data import FlwrPartition
from simfl.errors import ConfigError, MissingExtraError, UnknownNameError

pytest.importorskip("flwr_datasets")

TARGETS = np.repeat(np.arange(4), 50)


def split(name, arguments, *, targets=TARGETS, columns=None, seed=0, shuffle=True):
    partition = FlwrPartition(partitioner=name, arguments=arguments, shuffle=shuffle)
    return partition.split(targets, columns or {}, seed=seed)


def held(rows, offsets):
    return [rows[a:b].tolist() for a, b in itertools.pairwise(offsets)]


def test_an_iid_partitioner_cuts_the_examples_in_order_if_they_are_not_shuffled():
    arguments = {"num_partitions": 3}
    clients = held(*split("IidPartitioner", arguments, targets=np.zeros(7, int), shuffle=False))
    assert clients == [[0, 1, 2], [3, 4], [5, 6]]


def test_shuffled_examples_make_iid_clients_of_sorted_classes():
    """Of 50 examples from 4 classes of 50 a client misses a class with chance 0.75^50 = 6e-7."""
    for client in held(*split("IidPartitioner", {"num_partitions": 4})):
        assert len(client) == 50
        assert set(TARGETS[client].tolist()) == {0, 1, 2, 3}


def test_a_dirichlet_partitioner_uses_every_row_once():
    arguments = {"num_partitions": 5, "partition_by": "label", "alpha": 5.0}
    rows, offsets = split("DirichletPartitioner", arguments)
    assert sorted(rows.tolist()) == list(range(200))
    assert len(offsets) == 6
    assert np.diff(offsets).min() >= 10  # its own default for min_partition_size


def test_a_partitioner_is_seeded_by_the_run_unless_the_arguments_say_otherwise():
    arguments = {"num_partitions": 5, "partition_by": "label", "alpha": 5.0}
    rows = split("DirichletPartitioner", arguments, seed=1)[0].tolist()
    assert split("DirichletPartitioner", arguments, seed=1)[0].tolist() == rows
    assert split("DirichletPartitioner", arguments, seed=2)[0].tolist() != rows
    fixed = {**arguments, "seed": 7}
    one = split("DirichletPartitioner", fixed, seed=1, shuffle=False)[0].tolist()
    assert split("DirichletPartitioner", fixed, seed=2, shuffle=False)[0].tolist() == one


def test_a_pathological_partitioner_limits_the_classes_of_each_client():
    arguments = {
        "num_partitions": 4,
        "partition_by": "label",
        "num_classes_per_partition": 2,
        "class_assignment_mode": "deterministic",
    }
    for client in held(*split("PathologicalPartitioner", arguments)):
        assert len(set(TARGETS[client].tolist())) == 2


def test_a_natural_partitioner_uses_another_column():
    columns = {"region": np.array(["n", "s"] * 100)}
    arguments = {"partition_by": "region"}
    north, south = held(*split("NaturalIdPartitioner", arguments, columns=columns))
    assert sorted(north) == list(range(0, 200, 2))
    assert sorted(south) == list(range(1, 200, 2))


def test_a_size_partitioner_may_leave_rows_out():
    rows, offsets = split("SizePartitioner", {"partition_sizes": [3, 5]}, shuffle=False)
    assert offsets.tolist() == [0, 3, 8]
    assert rows.tolist() == list(range(8))


def test_an_unknown_partitioner_is_named_with_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'DirichletPartitioner'"):
        split("DirichletPartitoner", {})


def test_a_partitioner_of_columns_is_not_among_the_known():
    with pytest.raises(UnknownNameError, match="no flwr partitioner named 'VerticalEvenPart"):
        split("VerticalEvenPartitioner", {"num_partitions": 2})


def test_wrong_arguments_are_reported_with_the_partitioner():
    with pytest.raises(ConfigError, match=r"IidPartitioner cannot be built with .*'partitions'"):
        split("IidPartitioner", {"partitions": 2})


def test_an_error_of_the_partitioner_is_one_line():
    arguments = {"num_partitions": 500, "partition_by": "label", "alpha": 1.0}
    with pytest.raises(ConfigError, match="DirichletPartitioner: The number of partitions needs"):
        split("DirichletPartitioner", arguments)


def test_a_client_without_examples_is_refused():
    """With alpha = 1e-6 each of 4 classes goes to one client, so at least 2 of 6 get nothing."""
    arguments = {"num_partitions": 6, "partition_by": "label", "alpha": 1e-6}
    with pytest.raises(ConfigError, match=r"left [2-5] of 6 clients without examples"):
        split("DirichletPartitioner", {**arguments, "min_partition_size": 0})


def test_the_number_of_partitions_is_the_population():
    assert FlwrPartition(partitioner="x", arguments={"num_partitions": 9}).num_clients == 9
    assert FlwrPartition(partitioner="NaturalIdPartitioner").num_clients is None


def test_without_the_package_the_extra_to_install_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "flwr_datasets.partitioner", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'simfl\[flwr\]'"):
        split("IidPartitioner", {"num_partitions": 2})


BY_LABEL = {"partition_by": "label"}
ROW_WISE = {
    "ContinuousPartitioner": {"num_partitions": 4, "partition_by": "age", "strictness": 0.5},
    "DirichletPartitioner": {"num_partitions": 4, "alpha": [5.0, 5.0, 5.0, 5.0], **BY_LABEL},
    "DistributionPartitioner": {
        "distribution_array": [[1, 1], [1, 1], [3, 1], [1, 3]],
        "num_partitions": 4,
        "num_unique_labels_per_partition": 2,
        "preassigned_num_samples_per_label": 2,
        **BY_LABEL,
    },
    "ExponentialPartitioner": {"num_partitions": 4},
    "GroupedNaturalIdPartitioner": {"partition_by": "owner", "group_size": 2},
    "IidPartitioner": {"num_partitions": 4},
    "InnerDirichletPartitioner": {"partition_sizes": [50, 50, 50, 50], "alpha": 5.0, **BY_LABEL},
    "LinearPartitioner": {"num_partitions": 4},
    "NaturalIdPartitioner": {"partition_by": "owner"},
    "PathologicalPartitioner": {"num_partitions": 4, "num_classes_per_partition": 2, **BY_LABEL},
    "ShardPartitioner": {"num_partitions": 4, "num_shards_per_partition": 2, **BY_LABEL},
    "SizePartitioner": {"partition_sizes": [100, 50, 30, 20]},
    "SquarePartitioner": {"num_partitions": 4},
}


def test_all_row_wise_partitioners_are_tried():
    import flwr_datasets.partitioner as module

    names = {name for name in module.__all__ if not name.startswith("Vertical")}
    assert names - {"Partitioner", "IdToSizeFncPartitioner"} == ROW_WISE.keys()


@pytest.mark.parametrize("name", list(ROW_WISE))
def test_a_partitioner_runs_on_values_from_yaml_and_prints_nothing(name, capfd):
    """No bars, and no warnings, which are errors here."""
    columns = {
        "owner": np.array([f"owner-{row % 8}" for row in range(200)]),
        "age": np.linspace(20, 70, 200),
    }
    rows, offsets = split(name, ROW_WISE[name], columns=columns)
    assert len(set(rows.tolist())) == len(rows) <= 200
    assert len(offsets) - 1 == {"NaturalIdPartitioner": 8}.get(name, 4)
    assert capfd.readouterr() == ("", "")


def test_a_distribution_partitioner_gives_each_client_its_share():
    """Of class 2's 50 rows two clients get 2 each beforehand, and of the 46 three quarters and one
    quarter, rounded down; the one that is left goes to the first."""
    clients = held(*split("DistributionPartitioner", ROW_WISE["DistributionPartitioner"]))
    counts = np.array([np.bincount(TARGETS[rows], minlength=4) for rows in clients])
    assert sorted(counts[:, 2].tolist()) == [0, 0, 13, 37]
