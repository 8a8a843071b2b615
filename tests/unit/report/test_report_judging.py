"""The metric that ranks runs: recorded in run.json, or guessed from names for earlier versions."""

from __future__ import annotations

import json
import math

import pytest
from report_cases import NOW, records, write_run

from simfl.report.judging import best, main_metric, metric_keys, smaller_is_better
from simfl.report.reading import read_run


@pytest.fixture
def run(tmp_path):
    """Make a run with these numbers in one round, and perhaps what run.json says of them."""

    def run(better=None, **numbers):
        folder = write_run(tmp_path, [{"round": 1, **numbers}])
        said = {"id": "1"} if better is None else {"id": "1", "better": better}
        (folder / "run.json").write_text(json.dumps(said))
        return read_run(folder, now=NOW)

    return run


def test_the_run_defines_which_values_of_a_metric_are_better(run):
    one = run({"nll": "min", "lossless": "max"}, nll=0.5, lossless=0.5)
    assert smaller_is_better("nll", [one])
    assert not smaller_is_better("lossless", [one])
    assert best("nll", [0.5, math.nan, 0.25], [one]) == 0.25
    assert best("lossless", [0.5, math.nan, 0.25], [one]) == 0.5
    assert best("nll", [math.nan], [one]) is None


def test_the_first_metric_that_has_been_measured_is_the_main_one(run):
    better = {"f1": "max", "accuracy": "max", "loss": "min", "client_f1": "max"}
    assert main_metric([run(better, loss=1, accuracy=0.5, f1=0.5)]) == "f1"
    assert main_metric([run(better, loss=1, accuracy=0.5)]) == "accuracy"


def test_without_a_test_split_means_over_clients_rank_runs(run):
    better = {"client_nll": "min", "client_loss": "min", "train_loss": "min"}
    numbers = {"train_loss": 1, "client_loss": 0.5, "client_nll": 0.5, "client_nll_std": 0.5}
    one = run(better, **numbers, client_nll_count=3, delta_norm=1)
    assert main_metric([one]) == "client_nll"
    assert metric_keys([one]) == ["train_loss", "client_loss", "client_nll", "delta_norm"]
    assert main_metric([run(None, **numbers, client_accuracy=0.5)]) == "client_accuracy"


def test_metrics_are_the_losses_first_and_neither_counts_nor_times(run):
    one = run(
        seconds=1,
        seconds_train=1,
        accuracy=0.5,
        top_5=0.9,
        delta_norm=1,
        loss=0.1,
        train_loss=0.2,
        clients=2,
        sent_bytes=10,
        aux_bytes=5,
        retries=0,
        client_accuracy=0.4,
    )
    assert metric_keys([one]) == ["train_loss", "loss", "accuracy", "top_5", "delta_norm"]
    assert main_metric([one]) == "accuracy"
    assert main_metric([run(train_loss=1, loss=1, mae=1)]) == "loss"


def test_in_runs_of_earlier_versions_small_losses_and_errors_are_better(run):
    names = ("loss", "train_loss", "mae", "client_accuracy_std", "accuracy", "top_5")
    assert [smaller_is_better(m, [run(loss=1)]) for m in names] == [True] * 4 + [False] * 2


@pytest.mark.parametrize("text", ["[]", '{"better": 3}', '{"better": {"f1": 7}}', "{"])
def test_an_empty_run_json_is_that_of_an_earlier_version(tmp_path, text):
    folder = write_run(tmp_path, records([0.5]))
    (folder / "run.json").write_text(text)
    found = read_run(folder, now=NOW)
    assert found.better == {}
    assert main_metric([found]) == "accuracy"
