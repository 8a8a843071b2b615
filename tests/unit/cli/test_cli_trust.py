"""``--trust none`` and ``--no-import``: no command runs code of a scenario's author then."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

CODE = """\
rounds: 2
data: {source: python, path: "work_of_others:load"}
model: {kind: logistic}
client: {optimizer: {lrate: 0.01}}
"""


@pytest.fixture(autouse=True)
def _code_that_must_not_run(monkeypatch):
    monkeypatch.delitem(sys.modules, "work_of_others", raising=False)
    Path("work_of_others.py").write_text("raise SystemExit('this code was run')")
    Path("code.yaml").write_text(CODE)


@pytest.mark.parametrize(
    "command",
    [
        ("run", "code.yaml", "--backend", "inline", "--trust", "none"),
        (
            "run",
            "code.yaml",
            "--backend",
            "inline",
            "--trust",
            "none",
            "--out",
            "kept",
            "--resume",
            "auto",
        ),
        ("resume", "kept", "--trust", "none"),
        ("data", "code.yaml", "--trust", "none"),
        ("validate", "code.yaml", "--no-import"),
    ],
)
def test_code_is_refused_in_one_line(simfl, command):
    Path("kept").mkdir()
    Path("kept/scenario.yaml").write_text(CODE)
    result = simfl(*command)
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert ".yaml:2: data.source: is 'python', which runs code of the scenario's author" in line


def test_going_on_with_a_folder_of_others_runs_no_code_of_its_scenario(simfl, scenario):
    """The scenario given is harmless; the one in the folder is not."""
    Path("kept").mkdir()
    Path("kept/scenario.yaml").write_text(CODE)
    options = ("--backend", "inline", "--out", "kept", "--resume", "auto")
    result = simfl("run", scenario, *options, "--trust", "none")
    assert result.exit_code == 2
    assert "kept/scenario.yaml:2: data.source: is 'python'" in result.output


def test_a_report_without_trust_leaves_the_data_out_and_says_why(simfl):
    Path("kept").mkdir()
    Path("kept/scenario.yaml").write_text(CODE)
    result = simfl("report", "kept", "--format", "md", "--trust", "none")
    assert result.exit_code == 0
    page = Path("kept/report.md").read_text()
    assert "the data cannot be loaded, and are omitted" in page
    assert "runs code of the scenario's author" in page
