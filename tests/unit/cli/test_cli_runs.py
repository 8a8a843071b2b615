"""``simfl ls``, ``simfl compare`` and ``simfl report``."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import yaml

ACCURACIES = (0.25, 0.5, 0.75)


def write_run(folder: str, *, status: str | None = "done", age_s: float = 0, **scenario) -> None:
    """Write a run of three rounds of 2 seconds each."""
    path = Path(folder)
    path.mkdir(parents=True)
    plain = {"name": "small", "seed": 0, "rounds": 3, **scenario}
    (path / "scenario.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    rounds = [
        {"round": number, "seconds": 2.0, "steps": 4, "accuracy": accuracy}
        for number, accuracy in enumerate(ACCURACIES, start=1)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rounds))
    (path / "versions.json").write_text("{}")
    if status is not None:
        (path / "summary.json").write_text(json.dumps({"status": status, "wall_seconds": 75}))
    now = time.time()
    for file in path.iterdir():
        os.utime(file, (now - age_s, now - age_s))


def rows(output: str) -> list[list[str]]:
    return [line.split() for line in output.splitlines()]


def test_runs_are_listed_the_last_one_first(simfl):
    write_run("runs/old", age_s=7300)
    write_run("runs/sweep/new", status="failed")
    result = simfl("ls")
    assert result.exit_code == 0
    lines = rows(result.stdout)
    assert lines[0] == ["#", "2", "runs", "in", "runs"]
    assert lines[1] == ["run", "name", "state", "round", "result", "time", "last", "written"]
    expected = ["sweep/new", "small", "failed", "3/3", "accuracy", "0.7500", "1", "min", "15", "s"]
    assert lines[2][:10] == expected
    assert lines[3][0] == "old"
    assert lines[3][-3:] == ["2", "h", "ago"]


@pytest.mark.parametrize("command", [["ls"], ["report"], ["compare", "b"]])
def test_a_name_that_is_too_long_is_bad_input(simfl, command):
    result = simfl(*command, "a" * 5000)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1


def test_why_a_run_failed_is_listed(simfl):
    write_run("runs/a", status="failed")
    summary = json.loads(Path("runs/a/summary.json").read_text())
    reason = "client 3 failed in round 2:\n no such\x1b[31m file " + "x" * 400
    Path("runs/a/summary.json").write_text(json.dumps(summary | {"error": reason}))
    write_run("runs/b", status="done")
    last = simfl("ls").stdout.splitlines()[-1]
    assert last.startswith("a failed: client 3 failed in round 2: no such'\\x1b'[31m file xxx")
    assert last.endswith("x...")
    errors = [run["error"] for run in json.loads(simfl("ls", "--json").stdout)]
    assert [error and error[:8] for error in sorted(errors, key=str)] == [None, "client 3"]


def test_a_damaged_run_is_listed_as_such(simfl):
    write_run("runs/a", status=None)
    with Path("runs/a/metrics.jsonl").open("a") as file:
        file.write('{"round": 4, "acc')
    Path("runs/a/scenario.yaml").write_bytes(b"\xff\xfe: [")
    lines = rows(simfl("ls").stdout)
    assert lines[2][:5] == ["a", "a", "running", "(damaged)", "3/?"]


def test_a_run_without_one_of_its_files_is_not_listed_as_damaged(simfl):
    write_run("runs/a")
    Path("runs/a/versions.json").unlink(missing_ok=True)
    assert "damaged" not in simfl("ls").stdout
    (run,) = json.loads(simfl("ls", "--json").stdout)
    assert run["faults"] == ["versions.json is missing"]


def test_the_list_of_runs_is_there_for_programs(simfl):
    write_run("elsewhere/a")
    (run,) = json.loads(simfl("ls", "elsewhere", "--json").stdout)
    assert run.pop("last_written") == pytest.approx(time.time(), abs=60)
    assert run == {
        "folder": "elsewhere/a",
        "name": "small",
        "state": "done",
        "error": None,
        "round": 3,
        "rounds": 3,
        "metric": "accuracy",
        "value": 0.75,
        "seconds": 75,
        "faults": [],
    }


def test_a_folder_without_runs_is_no_mistake_and_one_that_is_not_there_is(simfl):
    Path("runs").mkdir()
    assert simfl("ls").stdout == "no runs in runs\n"
    result = simfl("ls", "run")
    assert result.exit_code == 2
    assert result.stderr == "run does not exist; give the folder that holds the runs\n"


def test_two_runs_are_compared_scenarios_first(simfl):
    write_run("a", client={"per_round": 2})
    write_run("b", client={"per_round": 3, "batch_size": 5}, seed=1)
    text = Path("b/metrics.jsonl").read_text()
    Path("b/metrics.jsonl").write_text(text.replace('"accuracy": 0.5', '"accuracy": 0.625'))
    result = simfl("compare", "a", "b", "--target", "accuracy=0.6")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[:4] == [
        "scenarios: 3 keys differ",
        "  seed: 0 -> 1",
        "  client.per_round: 2 -> 3",
        "  client.batch_size: (not there) -> 5",
    ]
    assert "rounds: 3 and 3, 3 in common" in lines
    assert "curves: differ from round 2 on" in lines
    table = rows(result.stdout)
    assert ["steps", "none", "4", "4", "0", "0", "—"] in table
    assert ["accuracy", "2", "0.7500", "0.7500", "0.0000", "0.1250", "2"] in table
    assert lines[-1] == "to accuracy ≥ 0.6: A in round 3, after 6.0 s; B in round 2, after 4.0 s"


def test_runs_that_are_the_same_are_said_to_be(simfl):
    write_run("a")
    write_run("b")
    lines = simfl("compare", "a", "b").stdout.splitlines()
    assert lines[0] == "scenarios: the same"
    assert "curves: the same numbers in every round" in lines


def test_the_comparison_is_there_for_programs(simfl):
    write_run("a")
    write_run("b", seed=1)
    found = json.loads(simfl("compare", "a", "b", "--json").stdout)
    assert found["scenario"] == [{"key": "seed", "values": ["0", "1"]}]
    assert found["first_round"] is None
    assert found["reached_a"] == {"round": 3, "seconds": 6.0, "bytes": None}
    accuracy = next(m for m in found["metrics"] if m["metric"] == "accuracy")
    assert (accuracy["final_a"], accuracy["final_difference"]) == (0.75, 0.0)


def test_comparing_with_no_run_is_bad_input(simfl):
    write_run("a")
    Path("empty").mkdir()
    result = simfl("compare", "a", "empty")
    assert result.exit_code == 2
    assert result.stderr.startswith("empty holds no run: none of scenario.yaml,")


def test_a_report_lies_in_its_runs_folder(simfl):
    write_run("a")
    result = simfl("report", "a", "--no-data")
    assert (result.exit_code, result.stdout) == (0, "a/report.html\n")
    assert Path("a/report.html").read_text().startswith("<!doctype html>")


def test_a_report_of_several_runs_lies_where_it_is_asked_for(simfl):
    write_run("a")
    write_run("b", seed=1)
    result = simfl("report", "a", "b", "--no-data", "--format", "md", "--target", "accuracy=0.5")
    assert (result.exit_code, result.stdout) == (0, "report.md\n")
    lines = Path("report.md").read_text().splitlines()
    assert "### To accuracy ≥ 0.5" in lines
    assert "| small | 2 of 2 | 2 | 4.0 s | 0.7500 ± 0.0000 | 0.7500 ± 0.0000 |" in lines


@pytest.mark.parametrize("format", ["png", "pdf", "svg", "tex", "csv", "md", "html"])
def test_the_format_is_that_of_the_files_name(simfl, format):
    write_run("a")
    assert simfl("report", "a", "--no-data", "--out", f"r.{format}").exit_code == 0
    texts = {"csv": b"run,", "md": b"# small", "html": b"<!doc", "tex": b"% Needs"}
    pictures = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    begins = (texts | pictures)[format]
    assert Path(f"r.{format}").read_bytes().startswith(begins)


def test_figures_are_a_file_for_each_chart(simfl):
    write_run("a")
    chart = ("--chart", "accuracy")
    result = simfl("report", "a", "--format", "pdf", "--no-data")
    assert "a/figures/accuracy.pdf" in result.stdout.splitlines()
    assert all(Path(line).read_bytes().startswith(b"%PDF") for line in result.stdout.splitlines())
    one = simfl("report", "a", "--format", "svg", "--out", "figs", *chart)
    assert one.stdout == "figs/accuracy.svg\n"
    assert simfl("report", "a", "--out", "acc.svg", *chart).stdout == "acc.svg\n"
    # A file of its own or in a folder, today or tomorrow: the same bytes.
    assert Path("acc.svg").read_bytes() == Path("figs/accuracy.svg").read_bytes()


def test_a_run_that_is_given_twice_is_one(simfl):
    write_run("a")
    simfl("report", "a", "./a/", "--no-data", "--out", "r.csv")
    assert len(Path("r.csv").read_text().splitlines()) == 1 + len(ACCURACIES)


def test_the_folder_of_a_sweep_stands_for_its_trials(simfl):
    write_run("sweep/trials/0")
    write_run("sweep/trials/1", rounds=4)
    result = simfl("report", "sweep", "--no-data", "--format", "csv")
    assert (result.exit_code, result.stdout) == (0, "sweep/report.csv\n")
    trials = [line.split(",")[0] for line in Path("sweep/report.csv").read_text().splitlines()]
    assert trials == ["run", *"000", *"111"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a", "--out", "r.doc"], "does not end in .html, .pdf, .svg, .png, .tex, .csv, .md; give"),
        (["a", "--chart", "accuracy"], "is for figures and LaTeX, not for html; add --format pdf"),
        (["a", "--format", "pdf", "--chart", "acuracy"], "Did you mean 'accuracy'?"),
        (["a", "--format", "tex", "--chart", "acuracy"], "Did you mean 'accuracy'?"),
        (["a", "--target", "high"], "target 'high' is not of the form accuracy=0.9"),
        (["nowhere"], "nowhere holds no run"),
        (["a", "--out", "no/such/r.html"], "cannot write no/such/r.html"),
        ([], "Missing argument"),
    ],
)
def test_a_report_that_cannot_be_made_says_why(simfl, arguments, said):
    write_run("a")
    result = simfl("report", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_a_real_run_has_a_report_with_what_its_clients_hold(simfl, scenario):
    assert simfl("run", scenario, "--backend", "inline", "--out", "out").exit_code == 0
    assert simfl("report", "out", "--format", "md").exit_code == 0
    text = Path("out/report.md").read_text()
    assert "| out | " not in text.splitlines()[0]
    assert "cannot be loaded" not in text
    assert "### Ledger" in text.splitlines()
    assert "### Rounds of a client" in text.splitlines()


CONTROL = "\x1b]0;taken\x07\x1b[2J"


def test_names_in_the_folders_of_others_do_nothing_to_the_terminal(simfl):
    """An escape sequence in a name could clear the screen, or worse."""
    write_run("runs/a", name=CONTROL)
    write_run("runs/b", seed=CONTROL, status=CONTROL)
    for command in (("ls",), ("compare", "runs/a", "runs/b"), ("resume", "runs/a")):
        output = simfl(*command).output
        assert r"\x1b" in output, command
        assert not set(output) & {"\x1b", "\x07"}


@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json", "scenario.yaml"])
@pytest.mark.parametrize("what", ["pipe", "endless"])
def test_a_folder_of_others_is_not_waited_for(simfl, name, what):
    """A named pipe, or a link to a device without an end, where a file should be."""
    write_run("runs/ours")
    write_run("runs/theirs")
    path = Path("runs/theirs", name)
    path.unlink()
    os.mkfifo(path) if what == "pipe" else path.symlink_to("/dev/zero")
    for command in (
        ("ls",),
        ("report", "runs", "--format", "md", "--no-data"),
        ("compare", "runs/ours", "runs/theirs"),
    ):
        assert simfl(*command).exit_code == 0
    kind = "a named pipe" if what == "pipe" else "a device"
    # A summary older than the records is of a former part of the run, and is not looked at.
    if (what, name) != ("endless", "summary.json"):
        assert f"{name} cannot be read: it is {kind}" in Path("runs/report.md").read_text()


def test_what_the_rounds_in_common_say_is_said_of_these_only(simfl):
    """One key differs, and one run has a round less."""
    write_run("a")
    write_run("b", seed=1)
    text = Path("b/metrics.jsonl").read_text().splitlines(keepends=True)
    Path("b/metrics.jsonl").write_text("".join(text[:2]))
    lines = simfl("compare", "a", "b").stdout.splitlines()
    assert lines[0] == "scenarios: 1 key differs"
    assert "curves: the same numbers in all 2 rounds that both have" in lines
    assert any(line.startswith("accuracy  none of 2 ") for line in lines)
