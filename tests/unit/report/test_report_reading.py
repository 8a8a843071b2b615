"""What is read of a run's folder, in whatever state it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from report_cases import NOW, SCENARIO, done, records, set_age, write_run

from simfl.errors import InputError
from simfl.report.reading import find_runs, read_run


def read(folder: Path):
    return read_run(folder, now=NOW)


def test_a_run_that_is_done_says_how_far_it_came_and_how_long_it_took(tmp_path):
    run = read(write_run(tmp_path / "a", records([0.5, None, 0.75]), summary=done(7.5)))
    assert (run.name, run.seed, run.state) == ("small", 0, "done")
    assert (run.rounds, run.planned_rounds, run.seconds) == (3, 3, 7.5)
    assert run.latest("accuracy") == 0.75
    assert run.faults == ()


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_run_that_ended_badly_says_how(tmp_path, status):
    run = read(write_run(tmp_path / "a", records([0.5]), summary={"status": status}))
    assert run.state == status


def test_a_run_without_a_summary_is_running_while_it_writes_and_then_stopped(tmp_path):
    folder = write_run(tmp_path / "a", records([0.5]))
    assert read(folder).state == "running"
    set_age(folder, 301)
    assert read(folder).state == "stopped"


def test_a_run_of_long_rounds_is_given_twenty_of_them(tmp_path):
    """Rounds of 100 seconds: silent for 1,999 seconds it may be in one, for 2,001 it is not."""
    folder = write_run(tmp_path / "a", records([0.5], seconds=100.0), age_s=1999)
    assert read(folder).state == "running"
    set_age(folder, 2001)
    assert read(folder).state == "stopped"


def test_a_run_that_was_copied_has_ended_whichever_file_came_first(tmp_path):
    folder = write_run(tmp_path / "a", records([0.5]), summary=done())
    os.utime(folder / "metrics.jsonl", (NOW - 1, NOW - 1))
    os.utime(folder / "summary.json", (NOW - 60, NOW - 60))
    assert read(folder).state == "done"


def test_the_seconds_of_a_resumed_run_are_those_of_all_its_rounds(tmp_path):
    """Its wall time is that of the last part: 3 rounds of 2 seconds took 6."""
    summary = done(2.5, resumed_after_round=2)
    assert read(write_run(tmp_path / "a", records([None] * 3), summary=summary)).seconds == 6.0


def test_an_incomplete_line_is_ignored_and_reported(tmp_path):
    folder = write_run(tmp_path / "a", records([0.5, 0.6]))
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(text + '{"round": 3, "sec')
    run = read(folder)
    assert run.rounds == 2
    assert (
        run.faults
        == (
            "metrics.jsonl: line 3 damaged or incomplete, and ignored",
            "summary.json is missing",
        )[:1]
    )


def test_a_round_that_is_there_twice_is_taken_as_it_was_written_last(tmp_path):
    rounds = [*records([0.1, 0.2]), *records([0.3])]
    run = read(write_run(tmp_path / "a", rounds))
    assert [record["accuracy"] for record in run.records] == [0.3, 0.2]


def test_missing_files_are_reported(tmp_path):
    folder = write_run(tmp_path / "a", records([0.5]), scenario=None)
    (folder / "versions.json").unlink()
    run = read(folder)
    assert run.faults == ("scenario.yaml is missing", "versions.json is missing")
    assert (run.name, run.planned_rounds, run.seed) == ("a", None, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("rounds: [1", "line 1 is not YAML"),
        ("- 1", "it is not a mapping"),
        ("a: &x [1]\nb: *x", "it holds an alias"),
        ("a: " + "[" * 5000, "it is not YAML"),
    ],
)
def test_a_damaged_scenario_is_reported(tmp_path, text, reason):
    folder = write_run(tmp_path / "a", records([0.5]))
    (folder / "scenario.yaml").write_text(text)
    assert f"scenario.yaml cannot be read: {reason}" in read(folder).faults


def test_a_damaged_summary_is_reported(tmp_path):
    folder = write_run(tmp_path / "a", records([0.5]), summary=done())
    (folder / "summary.json").write_text('{"status": "do')
    set_age(folder, 10)
    run = read(folder)
    assert run.faults == ("summary.json is damaged: it is not JSON",)
    assert run.state == "running"


def test_numbers_that_are_none_are_no_numbers(tmp_path):
    record = {"round": 1, "loss": "high", "accuracy": True, "steps": 10**400, "train_loss": 0.5}
    (run,) = [read(write_run(tmp_path / "a", [record]))]
    assert run.records == ({"round": 1, "train_loss": 0.5},)


def test_a_folder_without_a_run_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match=r"holds no run: none of scenario\.yaml, metrics\.jsonl"):
        read(tmp_path)


def test_runs_are_found_in_folders_of_folders_and_not_in_runs(tmp_path):
    for name in ("b", "a/1", "a/2/x", "a/2/y/too/deep"):
        write_run(tmp_path / name)
    write_run(tmp_path / "b" / "checkpoints")
    (tmp_path / "empty").mkdir()
    found = [str(path.relative_to(tmp_path)) for path in find_runs(tmp_path)]
    assert found == ["a/1", "a/2/x", "b"]


def test_a_folder_that_is_a_run_is_found_itself(tmp_path):
    assert find_runs(write_run(tmp_path / "a")) == [tmp_path / "a"]


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist; give the folder that holds"):
        find_runs(tmp_path / "runs")


def test_reading_a_run_imports_nothing_heavy(tmp_path):
    folder = write_run(tmp_path / "a", records([0.5]), scenario=SCENARIO)
    code = f"""
import sys
from pathlib import Path
from simfl.report.reading import read_run
read_run(Path({str(folder)!r}), now=0.0)
print([name for name in ("torch", "ray", "pydantic", "pyarrow", "plotly") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_scenario_is_plain_data(tmp_path):
    run = read(write_run(tmp_path / "a", scenario=SCENARIO))
    assert json.dumps(run.scenario) == json.dumps(SCENARIO)


def test_a_scenario_with_aliases_is_not_written_out(tmp_path):
    """Thirty mappings, each of which merges the one before nine times."""
    lines = ["a0: &a0 {k: 1}"]
    lines += [
        f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], x{i}: 1}}" for i in range(1, 30)
    ]
    folder = write_run(tmp_path / "run", done(3))
    (folder / "scenario.yaml").write_text("\n".join(lines))
    assert "scenario.yaml cannot be read: it holds an alias" in read(folder).faults
