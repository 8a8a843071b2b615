"""A round's record: its line, what is read back from it, and its parts."""

from __future__ import annotations

import json

import pytest

from simfl.record import ClientMetric, RoundRecord, is_reproducible, record_units, split_metrics

RECORD = RoundRecord(
    round=3,
    seconds=2.5,
    phases={"train": 2.0, "observe": 0.5},
    train_loss=0.5,
    clients=4,
    retries=1,
    actors=2,
    steps=8,
    sent_bytes=96,
    metrics={"loss": 0.25, "precision": None},
    client_metrics={"loss": ClientMetric(0.5, 0.25, 0.125, 1.0, 4, 0.0)},
)
KEYS = [
    *("round", "seconds", "seconds_train", "seconds_observe", "train_loss", "clients", "dropped"),
    *("retries", "actors", "examples", "examples_seen", "steps", "sent_bytes", "received_bytes"),
    *(
        "received_dense_bytes",
        "aux_bytes",
        "delta_norm",
        "loss",
        "precision",
        "client_loss",
        "client_loss_by_examples",
    ),
    *("client_loss_std", "client_loss_worst", "client_loss_count", "client_loss_best"),
]


def test_a_line_has_all_numbers_in_one_order() -> None:
    assert list(RECORD) == KEYS
    assert (RECORD["seconds_train"], RECORD["client_loss_worst"]) == (2.0, 1.0)


def test_a_line_that_is_read_back_is_the_same_record() -> None:
    text = json.dumps(RECORD.line)
    read = RoundRecord.parse(json.loads(text))
    assert read == RECORD
    assert json.dumps(read.line) == text
    assert (read.phases, read.metrics) == (RECORD.phases, RECORD.metrics)
    assert read.client_metrics == RECORD.client_metrics


def test_a_line_of_an_earlier_version_stays_as_it_is() -> None:
    """It may lack numbers, and have its keys in another order."""
    line = {"train_loss": 0.5, "round": 1, "client_f1": 0.5, "client_f1_std": 0.25, "loss": 1.0}
    read = RoundRecord.parse(line)
    assert list(read.line.items()) == list(line.items())
    assert read.client_metrics == {"f1": ClientMetric(mean=0.5, std=0.25)}
    assert read.metrics == {"loss": 1.0}


@pytest.mark.parametrize("line", [{}, {"loss": 1.0}, ["round"], 3, None])
def test_a_line_without_a_round_is_no_record(line: object) -> None:
    with pytest.raises(ValueError, match="no mapping that has a round"):
        RoundRecord.parse(line)  # type: ignore[arg-type]


def test_measures_are_the_training_loss_and_all_metrics() -> None:
    assert list(RECORD.measures) == ["train_loss", *KEYS[KEYS.index("loss") :]]


def test_times_retries_and_actors_are_not_reproducible() -> None:
    varying = [key for key in KEYS if not is_reproducible(key)]
    assert varying == ["seconds", "seconds_train", "seconds_observe", "retries", "actors"]
    assert list(RECORD.reproducible) == [key for key in KEYS if key not in varying]


def test_trackers_get_the_numbers_that_have_a_value() -> None:
    missing = ("round", "delta_norm", "precision")
    assert list(RECORD.numbers) == [key for key in KEYS if key not in missing]


def test_an_evaluation_can_be_taken_out() -> None:
    neither = RECORD.without(metrics=True, client_metrics=True)
    assert list(neither) == KEYS[: KEYS.index("loss")]
    only_clients = RECORD.without(metrics=True, client_metrics=False)
    assert (only_clients.metrics, list(only_clients.client_metrics)) == ({}, ["loss"])


def test_a_metric_whose_name_ends_like_a_statistic_is_a_metric() -> None:
    record = RoundRecord(round=1, client_metrics={"x_std": ClientMetric(1.0)})
    assert split_metrics(record) == ([], ["x_std"])


def test_seconds_and_bytes_have_units() -> None:
    known = record_units(["train"])
    assert (known["seconds"], known["seconds_train"], known["sent_bytes"]) == ("s", "s", "B")
    assert "train_loss" not in known
