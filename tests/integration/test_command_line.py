"""`simfl run` as a user starts it: its own process, its exit code, its folder."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.numpy import load_file
from typer.testing import CliRunner

from simfl.cli.main import app

pytestmark = pytest.mark.ray

SCENARIO: dict[str, Any] = {
    "name": "small",
    "rounds": 3,
    "data": {"source": "digits", "test_fraction": 0.2, "partition": {"kind": "iid", "clients": 6}},
    "model": {"kind": "logistic"},
    "client": {"per_round": 4, "batch_size": 32, "optimizer": {"lrate": 0.1}},
    "cluster": {"actors": 2},
}

FAILING = """
    from dataclasses import dataclass
    from typing import ClassVar
    from simfl.optimizer import OptiModule

    @dataclass(frozen=True)
    class Broken(OptiModule):
        name: ClassVar[str] = "broken"

        def update(self, gradients, state, context):
            if context.round == 2 and 3 in context.clients:
                raise ValueError("broken sensor")
            return gradients, state
"""


def write(folder: Path, scenario: dict[str, Any]) -> Path:
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump(scenario))
    return path


def simfl(*arguments: object, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "simfl", *map(str, arguments)]
    environment = os.environ | environment
    return subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def processes_under(folder: Path) -> list[str]:
    """Return the command lines of live processes that this folder's run has started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "cwd") == str(folder):
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def left_after(limit_s: float, folder: Path) -> list[str]:
    """Return what still runs when its time to end is up, or as soon as nothing does."""
    deadline = time.monotonic() + limit_s
    while (left := processes_under(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def test_a_run_on_ray_leaves_a_whole_folder_and_exits_with_0(tmp_path: Path) -> None:
    path = write(tmp_path, SCENARIO)
    process = simfl("run", path, "--out", "out", "--set", "client.batch_size=16", cwd=tmp_path)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "round 3/3" in output
    out = tmp_path / "out"
    rounds = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["round"] for record in rounds] == [1, 2, 3]
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["status"], summary["rounds"]) == ("done", 3)
    assert summary["final"]["accuracy"] == rounds[-1]["accuracy"]
    assert load_file(out / "weights.safetensors")
    assert yaml.safe_load((out / "scenario.yaml").read_text())["client"]["batch_size"] == 16
    assert json.loads((out / "versions.json").read_text())["ray"]
    assert str(out) in output or "out" in output


@pytest.mark.slow
def test_a_run_on_ray_needs_no_stderr(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "simfl", "run", write(tmp_path, SCENARIO), "--out", "out"]
    done = subprocess.run(["sh", "-c", 'exec "$@" 2>&-', "sh", *run], cwd=tmp_path, timeout=120)
    assert done.returncode == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["status"] == "done"


def test_a_failing_client_ends_the_run_with_its_traceback_and_keeps_what_was_written(
    tmp_path: Path, ray_cluster: None
) -> None:
    (tmp_path / "broken_module.py").write_text(textwrap.dedent(FAILING))
    scenario = SCENARIO | {"plugins": ["broken_module"]}
    scenario["client"] = {"optimizer": {"lrate": 0.1, "modules": ["broken"]}}
    path = str(write(tmp_path, scenario))
    result = CliRunner().invoke(app, ["run", path, "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    errors = result.stderr
    assert "client 3 failed in round 2: ValueError: broken sensor" in errors
    assert 'raise ValueError("broken sensor")' in errors
    assert "ray.exceptions" not in errors
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["status"], summary["rounds"]) == ("failed", 1)


@pytest.mark.parametrize(
    "signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_an_interrupted_run_ends_with_130_and_leaves_no_process(
    signum: signal.Signals, tmp_path: Path
) -> None:
    path = write(tmp_path, SCENARIO | {"rounds": 1_000_000, "evaluation": {"every": 0}})
    process = simfl("run", path, "--out", "out", cwd=tmp_path)
    metrics = tmp_path / "out" / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)  # until the first round is there; the test's own time limit ends it
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["status"] == "interrupted"
    assert left_after(60.0, tmp_path) == []


def test_a_bad_scenario_exits_with_2_before_anything_is_started(tmp_path: Path) -> None:
    scenario = SCENARIO | {"client": {"per_round": 50, "optimizer": {"lrate": 0.1}}}
    process = simfl("run", write(tmp_path, scenario), "--out", "out", cwd=tmp_path)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert len(errors.strip().splitlines()) == 1
    assert "client.per_round is 50" in errors or "client.per_round: is 50" in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_without_rays_metrics_a_run_says_so_in_a_line_and_goes_on(tmp_path: Path) -> None:
    path = write(tmp_path, SCENARIO)
    process = simfl(
        "run", path, "--out", "out", cwd=tmp_path, RAY_enable_metrics_collection="false"
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    (line,) = errors.splitlines()
    assert line.startswith("Ray's metrics are switched off on this node; the run continues")


@pytest.mark.slow
def test_where_the_dashboards_port_is_taken_the_run_says_which_other_it_has(tmp_path: Path) -> None:
    path = write(tmp_path, SCENARIO)
    with socket.socket() as taken:
        with contextlib.suppress(OSError):  # taken already, which serves as well
            taken.bind(("127.0.0.1", 8265))
            taken.listen()
        process = simfl(
            "run", path, "--out", "out", "--set", "cluster.dashboard=true", cwd=tmp_path
        )
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    (port,) = re.findall(r"^Ray's dashboard: http://127\.0\.0\.1:(\d+)$", output, re.MULTILINE)
    assert port != "8265"
