"""Faults that fuzzing found and that are fixed, one by one: the suite's corpus."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simfl
from simfl.data import CsvFile, NpzFile
from simfl.errors import CheckpointError, DataError, InputError, ScenarioError
from simfl.record import RoundRecord
from simfl.scenario import load_scenario
from simfl.simulation import build
from simfl.simulation.checkpoints import Checkpoints

pytestmark = pytest.mark.usefixtures("only_our_components")

SCENARIO: dict[str, Any] = {
    "rounds": 3,
    "data": {"source": "synthetic", "clients": 4, "features": 3, "classes": 2, "max_examples": 60},
    "model": {"kind": "logistic"},
    "client": {"per_round": 2, "optimizer": {"lrate": 0.05}},
    "checkpoint": {"every": 2},
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("original") / "run"
    simfl.run(SCENARIO, out=out, backend="inline")
    return out


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    """A copy of a run that is done."""
    shutil.copytree(original, tmp_path / "run")
    return tmp_path / "run"


def numbers(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [RoundRecord.parse(json.loads(line)).reproducible for line in lines]


@pytest.mark.parametrize(
    "summary",
    [
        "",
        "{}",
        "[]",
        "null",
        '{"status": "done"}',
        "[" * 100_000,
        "\udcff",
        '{"status": "done", "rounds": "3"}',
    ],
)
def test_a_run_with_a_damaged_summary_goes_on_from_its_checkpoint(
    run: Path, original: Path, summary: str
) -> None:
    (run / "summary.json").write_text(summary, errors="surrogateescape")
    simfl.resume(run, backend="inline")
    assert numbers(run) == numbers(original)
    assert json.loads((run / "summary.json").read_text())["status"] == "done"


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\n",
        b"[" * 100_000 + b"\n",
        b'{"round": 1}\n',
        b'{"round": 1, "dropped": "a"}\n',
        b"1\n",
    ],
)
def test_a_damaged_line_of_metrics_names_the_file(run: Path, line: bytes) -> None:
    path = run / "metrics.jsonl"
    _, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([line, *others]))
    (run / "summary.json").unlink()
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl does not hold the 2 rounds"):
        simfl.resume(run, backend="inline")


def test_another_number_in_metrics_is_noticed(run: Path) -> None:
    """It is JSON as good as any; the checkpoint knows what was there."""
    path = run / "metrics.jsonl"
    first, *others = path.read_text().splitlines(keepends=True)
    record = json.loads(first)
    path.write_text("".join([json.dumps({**record, "train_loss": 0.5}) + "\n", *others]))
    (run / "summary.json").unlink()
    with pytest.raises(CheckpointError, match=r"numbers of metrics\.jsonl are not those that"):
        simfl.resume(run, backend="inline")


def test_a_run_that_was_resumed_twice_is_still_known(run: Path, original: Path) -> None:
    """Each part continues the digest of the previous parts."""
    for rounds in (5, 8):
        scenario = load_scenario(SCENARIO, overrides=[f"rounds={rounds}"])
        simfl.run(scenario, out=run, backend="inline", resume="auto")
    assert len(numbers(run)) == 8
    assert numbers(run)[:3] == numbers(original)


def test_an_identity_that_is_nested_without_end_is_told(run: Path) -> None:
    (run / "run.json").write_text("[" * 100_000)
    (run / "summary.json").unlink()
    with pytest.raises(InputError, match=r"run\.json does not have the run's id"):
        simfl.resume(run, backend="inline")


def test_going_on_with_data_of_another_shape_is_refused(run: Path) -> None:
    """A client's host would have failed in the middle of a round."""
    scenario = run / "scenario.yaml"
    assert "features: 3" in scenario.read_text()
    (run / "summary.json").unlink()
    saved = simfl.load_scenario(scenario)
    checkpoints = Checkpoints(saved, run, notify=print)
    wider = load_scenario(SCENARIO, overrides=["data.features=5"])
    model = build(wider).server.build_model().get_weights()
    with pytest.raises(CheckpointError, match=r"'output.weight' are of shape \[2, 3\].*\[2, 5\]"):
        checkpoints.require_fit(checkpoints.find(), model)


def test_an_override_with_an_index_of_thousands_of_digits_is_a_fault() -> None:
    with pytest.raises(ScenarioError):
        load_scenario(SCENARIO, overrides=["9" * 5000 + "=1"])


@pytest.mark.parametrize(
    "override",
    [
        "data.clients=1000000000000",
        "data.features=100000000000",
        "data.classes=100000000000",
        "data.min_examples=1000000000000",
        "data.size_log_mean=700.0",
        "data.size_log_mean=1.0e+10",
        "client.batch_size=100000000000000000000",
        "client.steps=9223372036854775808",
    ],
)
def test_what_no_machine_can_hold_is_refused_at_once(override: str) -> None:
    unbounded = {**SCENARIO, "data": {**SCENARIO["data"], "max_examples": None}}
    with pytest.raises(InputError, match=r"do not fit into the memory|too large a number"):
        build(load_scenario(unbounded, overrides=[override]))


@pytest.mark.parametrize("key", ["client.batch_size", "evaluation.batch_size", "checkpoint.every"])
def test_the_largest_number_is_as_good_as_all(tmp_path: Path, key: str, original: Path) -> None:
    """A batch of more examples than there are is all of them, as null is."""
    scenario = load_scenario(SCENARIO, overrides=["checkpoint.every=1", f"{key}={2**63 - 1}"])
    simfl.run(scenario, out=tmp_path / "run", backend="inline")
    assert numbers(tmp_path / "run") == numbers(original)


def archive(path: Path, **members: bytes) -> str:
    arrays = {"inputs": np.zeros((3, 2)), "targets": np.arange(3)}
    with zipfile.ZipFile(path, "w") as file:
        for name, array in arrays.items():
            if name not in members:
                buffer = io.BytesIO()
                np.save(buffer, array)
                file.writestr(f"{name}.npy", buffer.getvalue())
        for name, data in members.items():
            file.writestr(f"{name}.npy", data)
    return str(path)


def npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


def test_an_array_that_says_it_is_larger_than_any_memory_is_refused(tmp_path: Path) -> None:
    forged = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }")
    with pytest.raises(DataError, match="cannot be read"):
        NpzFile(archive(tmp_path / "a.npz", inputs=forged)).load(seed=0)


def test_a_file_that_only_begins_like_an_archive_is_refused_and_closed(tmp_path: Path) -> None:
    """numpy leaves it open, which a test notices as a warning."""
    whole = Path(archive(tmp_path / "a.npz")).read_bytes()
    (tmp_path / "b.npz").write_bytes(b"no archive" + whole)
    with pytest.raises(DataError, match="cannot be read"):
        NpzFile(str(tmp_path / "b.npz")).load(seed=0)


def test_class_names_may_be_a_single_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", inputs=np.zeros((3, 2)), targets=[0, 0, 0], class_names="only")
    assert NpzFile(str(tmp_path / "a.npz")).load(seed=0).class_names == ("only",)


def test_a_columns_name_cannot_clear_the_screen(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\x1b[2J,b\n1,2\n")
    with pytest.raises(DataError) as raised:
        CsvFile(str(tmp_path / "a.csv"), target="label").load(seed=0)
    assert str(raised.value).isprintable()
