"""What a run leaves is whole, whatever happens to the run, its disk or its observers."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest
import yaml

import simfl
from simfl.errors import InputError, RunError
from simfl.observers import ClientTable, Observer, RoundRecord
from simfl.simulation import build

HERE = str(Path(__file__).parent)


def scenario(**changes: Any) -> dict[str, Any]:
    """Five of ten clients a round, saved after every second; clients evaluated at 4, 8 and 9."""
    return {
        "rounds": 9,
        "seed": 1,
        "plugins": ["killing"],
        "search": [HERE],
        "data": {
            "source": "digits",
            "test_fraction": 0.2,
            "partition": {"kind": "dirichlet", "clients": 10, "alpha": 0.5},
        },
        "model": {"kind": "logistic"},
        "client": {"per_round": 5, "batch_size": 16, "optimizer": {"lrate": 0.1}},
        "evaluation": {"clients_every": 4},
        "checkpoint": {"every": 2},
        "cluster": {"actors": 2, "chunk_size": 2},
    } | changes


def with_a_kill(plain: dict[str, Any], folder: Path, *, round: int) -> dict[str, Any]:
    """Kill the process that trains the third client of a round."""
    client = build(simfl.load_scenario(plain)).plan_round(round).clients[2]
    kill = ["kill-at", {"folder": str(folder), "client": client, "round": round}]
    return plain | {"client": plain["client"] | {"optimizer": {"lrate": 0.1, "modules": [kill]}}}


def read(folder: Path, name: str) -> dict[str, list[Any]]:
    """Return the columns that are the same bits on every backend."""
    table = pq.read_table(folder / name)
    differing = [name for name in ("seconds", "actor", "retries") if name in table.column_names]
    return table.drop_columns(differing).to_pydict()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    simfl.run(scenario(), out=out, backend="inline")
    return out


def run_in_a_process(plain: dict[str, Any], out: Path, *, before: str = "") -> Any:
    """Run in one process, after some code of the test's."""
    path = out.parent / "scenario.yaml"
    path.write_text(yaml.safe_dump(plain))
    code = f"{before}\nfrom simfl.cli.main import main; main()"
    arguments = ["run", str(path), "--backend", "inline", "--out", str(out)]
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=200
    )


def test_the_tables_of_a_killed_run_can_be_read_and_those_of_a_resumed_one_are_whole(
    tmp_path: Path, undisturbed: Path
) -> None:
    """Killed in round 8, after the checkpoint of round 6; a half-written line is added to that."""
    out = tmp_path / "out"
    assert run_in_a_process(with_a_kill(scenario(), tmp_path, round=8), out).returncode == -9
    whole = read(undisturbed, "clients.parquet")
    found = read(out, "clients.parquet")
    num_rows = len(found["round"])
    assert num_rows >= 6 * 5
    assert {name: column[:num_rows] for name, column in whole.items()} == found
    assert read(out, "evaluations.parquet")["round"] == [4] * 10
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"round": 8, "secon')
    result = simfl.resume(out, backend="inline")
    assert result.summary["resumed_after_round"] == 6
    for name in ("clients.parquet", "evaluations.parquet"):
        assert read(out, name) == read(undisturbed, name)
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == list(range(1, 10))
    assert json.loads((out / "run.json").read_text()).keys() == {"id", "began", "better", "units"}


def test_a_full_disk_is_reported_and_the_run_continues(tmp_path: Path, undisturbed: Path) -> None:
    """No file may have more than 4 KiB: metrics.jsonl does not hold nine rounds, nor does the
    table of clients; the weights fit."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
    out = tmp_path / "out"
    plain = scenario(checkpoint={"every": 0}, evaluation={"clients_every": 1})
    done = run_in_a_process(plain, out, before=limit)
    assert done.returncode == 0, done.stderr
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == list(range(1, len(lines) + 1))
    assert 1 <= len(lines) < 9
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["status"], summary["rounds"]) == ("done", 9)
    assert summary["lost"]["metrics.jsonl"] == f"rounds {len(lines) + 1} to 9: File too large"
    assert "File too large" in summary["lost"]["clients.parquet"]
    told = done.stderr.splitlines()
    assert len(told) == 2, done.stderr
    assert told[0] == f"{out}/metrics.jsonl cannot be written: File too large; the run continues"
    assert told[1].startswith("clients.parquet failed at the end: OSError:")
    assert (out / "weights.safetensors").read_bytes() == (
        undisturbed / "weights.safetensors"
    ).read_bytes()


@dataclass
class FailsInRoundTwo(Observer):
    """Looks at two numbers of a round, one of which is missing in round 2."""

    name: ClassVar[str] = "fails-in-round-two"

    key: str
    seen: ClassVar[list[int]] = []

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        self.seen.append(record["round"])
        if record["round"] == 2:
            raise KeyError(self.key)


def test_a_users_observer_that_fails_is_reported_and_disabled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    observers = ["tensorboard", ["fails-in-round-two", {"key": "speed"}]]
    out = tmp_path / "out"
    FailsInRoundTwo.seen.clear()
    result = simfl.run(scenario(output={"observers": observers}), out=out, backend="inline")
    assert FailsInRoundTwo.seen == [1, 2]
    label = "output.observers[1] 'fails-in-round-two'"
    failure = "failed in round 2: KeyError: 'speed'"
    assert result.summary["status"] == "done"
    assert result.summary["lost"] == {label: failure}
    assert json.loads((out / "summary.json").read_text()) == result.summary
    assert capsys.readouterr().err.splitlines() == [
        f"{label} {failure}; it is disabled from now on, and the run continues "
        f"(its traceback is in {out / 'observers.log'})"
    ]
    assert list((out / "tensorboard").iterdir())


@dataclass
class InTheWay(Observer):
    """Makes a folder where the weights are to be written."""

    name: ClassVar[str] = "in-the-way"

    path: str

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        Path(self.path).mkdir()


def test_weights_that_cannot_be_written_fail_the_run_in_a_line(tmp_path: Path) -> None:
    out = tmp_path / "out"
    in_the_way = ["in-the-way", {"path": str(out / "weights.safetensors")}]
    plain = scenario(rounds=1, output={"observers": [in_the_way]})
    with pytest.raises(RunError, match=r"all rounds are done, but .* cannot be written"):
        simfl.run(plain, out=out, backend="inline")
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["status"], summary["rounds"]) == ("failed", 1)


def test_a_folder_that_cannot_be_created_is_reported_before_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write .*Not a directory"):
        simfl.run(scenario(), out=tmp_path / "file" / "out", backend="inline")


def test_a_folder_that_has_become_read_only_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its final weights could not be written, hours later."""
    out = tmp_path / "out"
    simfl.run(scenario(rounds=1), out=out, backend="inline")
    (out / "summary.json").unlink()

    def refuse(*_: object, dir: Path, **__: object) -> None:
        assert dir == out
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(InputError, match=r"cannot write .*out: Read-only file system; make it"):
        simfl.resume(out, backend="inline")
    assert not (out / "summary.json").exists()


@pytest.mark.parametrize("backend", ["inline", pytest.param("ray", marks=pytest.mark.ray)])
def test_the_seconds_of_the_ledger_add_up_to_the_wall_time(
    backend: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if backend == "ray":
        request.getfixturevalue("ray_cluster")
    result = simfl.run(scenario(), out=tmp_path / "out", backend=backend)
    ledger = result.summary["ledger"]
    assert sum(ledger["seconds"].values()) == pytest.approx(result.summary["wall_seconds"])
    rounds = sum(record["seconds"] for record in result.history)
    phases = ("sample", "train", "aggregate", "evaluate", "checkpoint", "observe")
    # After the last round only what follows it is observed, saved and finished.
    assert rounds <= sum(ledger["seconds"][phase] for phase in phases)
    assert ledger["steps"] == sum(record["steps"] for record in result.history)
    assert ledger["sent_bytes"] == 9 * 5 * (64 * 10 + 10) * 4
    assert ledger["received_bytes"] == ledger["sent_bytes"]
    assert 0 < ledger["busy_share"] <= 1
    peaks = ledger["peak_memory_bytes"]
    asked = {"driver", "server", "client"} if backend == "ray" else {"driver"}
    assert {role for role, peak in peaks.items() if peak is not None} == asked
    assert all(peak > 10 << 20 for peak in peaks.values() if peak is not None)


@pytest.mark.ray
@pytest.mark.slow
def test_the_table_on_ray_says_who_trained_whom_and_what_was_run_again(
    tmp_path: Path, ray_cluster: None, undisturbed: Path
) -> None:
    """One of two actors is killed in round 3, by the third client, which is in the second chunk."""
    plain = with_a_kill(scenario(), tmp_path, round=3)
    result = simfl.run(plain, out=tmp_path / "out")
    for name in ("clients.parquet", "evaluations.parquet"):
        assert read(tmp_path / "out", name) == read(undisturbed, name)
    rows = pq.read_table(tmp_path / "out" / "clients.parquet").to_pylist()
    assert {row["actor"] for row in rows} == {"client-0", "client-1"}
    again = [(row["round"], position % 5) for position, row in enumerate(rows) if row["retries"]]
    assert again == [(3, 2), (3, 3)]
    assert [record["retries"] for record in result.history] == [0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert result.summary["ledger"]["retries"] == 1
