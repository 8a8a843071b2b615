"""Clients' own test examples, against lists of the same examples by client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simfl
from simfl.data import (
    IID,
    CsvFile,
    Natural,
    NpzFile,
    Ragged,
    Source,
    Text,
    build_dataset,
)
from simfl.errors import ConfigError, DataError

NOTES = (
    "1 of 5 test examples are of clients without training examples, such as 9; only the central "
    "evaluation has them",
    "1 of 3 clients have no test examples, such as 4; they are evaluated on what they train on",
)


def arrays() -> dict[str, Any]:
    """Return three clients with 2, 1 and 3 examples, of which 3, 4 and 7 have 1, 0 and 3 tests."""
    return {
        "inputs": np.arange(12.0).reshape(6, 2),
        "targets": np.array([0, 1, 0, 1, 0, 1]),
        "client": np.array([7, 3, 7, 4, 3, 7]),
        "test_inputs": 100 + np.arange(10.0).reshape(5, 2),
        "test_targets": np.array([1, 0, 1, 0, 1]),
        "test_client": np.array([7, 9, 7, 3, 7]),
    }


def npz(folder: Path, **changes: Any) -> NpzFile:
    kept = {name: value for name, value in (arrays() | changes).items() if value is not None}
    np.savez(folder / "data.npz", **kept)
    return NpzFile(str(folder / "data.npz"))


def build(source: Source, partition: Any = None, **options: Any) -> Any:
    return build_dataset(source, partition, seed=0, client_tests=True, **options)


def csv(folder: Path, *, ids: str = "") -> CsvFile:
    given = arrays()
    for path, prefix in ((folder / "a.csv", ""), (folder / "b.csv", "test_")):
        columns = [given[f"{prefix}{name}"].tolist() for name in ("inputs", "targets", "client")]
        lines = [
            f"{a},{b},{y},{ids if prefix else ''}{c}" for (a, b), y, c in zip(*columns, strict=True)
        ]
        path.write_text("\n".join(["a,b,y,device", *lines]))
    return CsvFile(str(folder / "a.csv"), "y", client="device", test_path=str(folder / "b.csv"))


@pytest.mark.parametrize("make", [npz, csv])
def test_each_client_is_evaluated_on_the_test_examples_with_its_id(
    tmp_path: Path, make: Any
) -> None:
    dataset = build(make(tmp_path))
    given = arrays()
    for client, value in enumerate([3, 4, 7]):
        trained = given["inputs"][given["client"] == value]
        tests = given["test_inputs"][given["test_client"] == value]
        found = dataset.train.inputs[dataset.train_rows(client)]
        assert found.tolist() == trained.tolist()
        evaluated = dataset.train.inputs[dataset.evaluation_rows(client)]
        assert evaluated.tolist() == (tests if len(tests) else trained).tolist()
        labels = dataset.train.targets[dataset.holdout_rows(client)]
        assert labels.tolist() == given["test_targets"][given["test_client"] == value].tolist()
    assert dataset.num_train_examples().tolist() == [2, 1, 3]
    assert dataset.test.inputs.tolist() == given["test_inputs"].tolist()
    assert dataset.notes == NOTES


def test_without_it_nothing_changes(tmp_path: Path) -> None:
    with_ids = build_dataset(npz(tmp_path), None, seed=0)
    without = build_dataset(npz(tmp_path, test_client=None), None, seed=0)
    assert with_ids.digest() == without.digest()
    assert with_ids.notes == ()


def test_numbers_and_text_are_the_same_ids(tmp_path: Path) -> None:
    text = arrays()["test_client"].astype(str)
    by_text = build(npz(tmp_path, test_client=text))
    assert by_text.digest() == build(npz(tmp_path)).digest()


def test_sequences_are_joined(tmp_path: Path) -> None:
    for name, rows in (("a", ["ann so", "bob or", "ann no!"]), ("b", ["bob if", "ann a"])):
        lines = [row.split() for row in rows]
        text = "\n".join(f"{who},{what}" for who, what in lines)
        (tmp_path / f"{name}.csv").write_text(f"who,what\n{text}\n")
    source = Text(
        path=str(tmp_path / "a.csv"), prompt="{who}", response="{what}", client="who",
        test_path=str(tmp_path / "b.csv"),
    )  # fmt: skip
    dataset = build(source)
    found = [
        [
            [token for token in row.tolist() if token != -100]
            for row in dataset.train.targets[dataset.evaluation_rows(client)]
        ]
        for client in range(2)
    ]
    assert found == [[[*b"a", 256]], [[*b"if", 256]]]
    inputs, targets = dataset.train.inputs, dataset.train.targets
    assert isinstance(inputs, Ragged)
    assert inputs.values is targets.values
    assert inputs[dataset.evaluation_rows(1)][0, :5].tolist() == [*b"bobif"]


@pytest.mark.parametrize(
    ("changes", "partition", "error", "message"),
    [
        ({"test_inputs": None, "test_targets": None, "test_client": None}, None, ConfigError,
         "the source has no test split; name one, or use data.holdout_fraction"),
        ({"test_client": None}, None, DataError, "the test split has no column 'client'; add each"),
        ({"test_client": np.array([1, 2, 1, 2, 8])}, None, DataError,
         r"no test example has the 'client' of a client: they are 1, 2, 1, ..., and the clients 3"),
        ({}, IID(clients=2), ConfigError, "'iid' makes clients that the test split does not know"),
        ({}, Natural(column="targets"), DataError, "no column named 'targets'"),
    ],
)  # fmt: skip
def test_what_cannot_be_matched_is_one_line(
    tmp_path: Path, changes: dict[str, Any], partition: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        build(npz(tmp_path, **changes), partition)
    with pytest.raises(ConfigError, match=r"data\.holdout_fraction is 0\.5, but data\.client_"):
        build(npz(tmp_path), holdout_fraction=0.5)


def test_a_run_evaluates_clients_on_their_tests(tmp_path: Path) -> None:
    """The mean over clients' own tests by examples is that over all tests, if all are clients'."""
    ids = np.array([7, 4, 7, 3, 7])
    source = npz(tmp_path, test_client=ids)
    scenario = {
        "rounds": 1,
        "data": {"source": "npz", "path": source.path, "client_tests": True},
        "model": {"kind": "mlp"},
        "client": {"optimizer": {"lrate": 0.1}},
        "evaluation": {"clients_every": 1},
    }
    record = simfl.run(scenario, out=tmp_path / "out", backend="inline").history[-1]
    assert record["client_loss_by_examples"] == pytest.approx(record["loss"], rel=1e-6)
