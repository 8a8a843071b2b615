"""What is added up of the tables of clients."""

from __future__ import annotations

import numpy as np
import pytest
from report_cases import write_table

from simfl.report.client_tables import read_client_history, read_evaluations
from simfl.report.fairness import spread_of

FIRST = {
    "round": [1, 1, 2, 2],
    "client": [7, 3, 7, 5],
    "seconds": [1.0, 2.0, 0.5, 0.25],
    "actor": ["client-0", "client-1", "client-1", "client-1"],
}
SECOND = {"round": [3], "client": [7], "seconds": [4.0], "actor": ["client-0"]}


def check_history(history):
    """Client 7 took part three times, clients 3 and 5 once each."""
    assert history.times.tolist() == [1, 1, 3]
    assert history.actors == ("client-0", "client-1")
    assert history.busy_s.tolist() == [5, 2.75]


def test_a_table_in_one_file_is_added_up(tmp_path):
    whole = {name: FIRST[name] + SECOND[name] for name in FIRST}
    write_table(tmp_path / "clients.parquet", whole)
    faults = []
    check_history(read_client_history(tmp_path, faults))
    assert faults == []


def test_a_table_in_parts_is_added_up(tmp_path):
    write_table(tmp_path / "clients.parquet" / "part-1.parquet", FIRST)
    write_table(tmp_path / "clients.parquet" / "part-2.parquet", SECOND)
    check_history(read_client_history(tmp_path, []))


def test_a_truncated_file_is_skipped_and_reported(tmp_path):
    write_table(tmp_path / "clients.parquet" / "part-1.parquet", FIRST)
    write_table(tmp_path / "clients.parquet" / "part-2.parquet", SECOND)
    torn = tmp_path / "clients.parquet" / "part-3.parquet"
    torn.write_bytes((tmp_path / "clients.parquet" / "part-2.parquet").read_bytes()[:-20])
    faults = []
    check_history(read_client_history(tmp_path, faults))
    assert faults == ["clients.parquet: 1 of 3 files are damaged, and skipped"]


def test_actors_are_in_the_order_of_their_numbers(tmp_path):
    actors = ["client-10", "client-2", "client-1"]
    table = {"client": [0, 1, 2], "actor": actors, "seconds": [10.0, 2.0, 1.0]}
    write_table(tmp_path / "clients.parquet", table)
    history = read_client_history(tmp_path, [])
    assert history.actors == ("client-1", "client-2", "client-10")
    assert history.busy_s.tolist() == [1, 2, 10]


def test_a_missing_table_is_reported(tmp_path):
    faults = []
    assert read_client_history(tmp_path, faults) is None
    assert faults == ["clients.parquet is missing: nothing is known about single clients"]


def test_a_table_without_a_required_column_is_reported(tmp_path):
    write_table(tmp_path / "clients.parquet", {"round": [1], "client": [0]})
    faults = []
    assert read_client_history(tmp_path, faults) is None
    assert faults == ["clients.parquet: 1 of 1 files are damaged, and skipped"]


def test_evaluations_are_sorted_by_round_and_value(tmp_path):
    table = {
        "round": [10, 5, 5, 10, 5],
        "client": [0, 0, 1, 1, 2],
        "weight": [1.0, 2.0, 3.0, 1.0, 1.0],
        "accuracy": [0.9, 0.5, 0.25, 0.7, float("nan")],
        "loss": [0.1, 0.5, 0.75, 0.3, 0.4],
    }
    write_table(tmp_path / "evaluations.parquet", table)
    found = read_evaluations(tmp_path, [])
    assert {
        name: [(one.round, one.values.tolist()) for one in evaluations]
        for name, evaluations in found.items()
    } == {
        "accuracy": [(5, [0.25, 0.5]), (10, [0.7, 0.9])],
        "loss": [(5, [0.4, 0.5, 0.75]), (10, [0.1, 0.3])],
    }


def test_evaluations_are_apart_by_model_and_by_new_clients(tmp_path):
    table = {
        "round": [1] * 6,
        "client": [0, 1, 2] * 2,
        "weight": [1.0] * 6,
        "model": ["global"] * 3 + ["tuned"] * 3,
        "new": [False, False, True] * 2,
        "accuracy": [0.5, 0.25, 0.0, 1.0, 0.75, 0.125],
    }
    write_table(tmp_path / "evaluations.parquet", table)
    found = read_evaluations(tmp_path, [])
    assert {name: one.values.tolist() for name, (one,) in found.items()} == {
        "accuracy": [0.25, 0.5],
        "tuned_accuracy": [0.75, 1.0],
        "new_accuracy": [0.0],
        "new_tuned_accuracy": [0.125],
    }


def test_without_evaluations_there_is_nothing_to_tell(tmp_path):
    faults = []
    assert read_evaluations(tmp_path, faults) == {}
    assert faults == []


def test_the_worst_tenth_of_twenty_clients_are_the_two_lowest_accuracies():
    """0.00, 0.05, ... 0.95: mean 0.475, variance 0.05² * (20² - 1) / 12 = 0.083125."""
    spread = spread_of(np.arange(20) / 20, is_loss=False)
    assert spread.worst == pytest.approx(0.025)
    assert spread.best == pytest.approx(0.925)
    assert spread.mean == pytest.approx(0.475)
    assert spread.variance == pytest.approx(0.083125)
    assert spread.lowest == 0


def test_of_a_loss_the_highest_are_the_worst():
    assert spread_of(np.arange(20) / 20, is_loss=True).worst == pytest.approx(0.925)
