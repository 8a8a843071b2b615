"""A run as others see it: Grafana's panels on what the real Prometheus has scraped, Ray's
dashboard, and Ray's jobs.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from watching import ROOT, Cluster, Prometheus, cluster_with_dashboard, prometheus

from dashboards.queries import NEEDS_GPU
from simfl.cluster.telemetry import Metric

pytestmark = pytest.mark.ray

BOARDS = ("run", "actors", "fleet")
DEADLINE_S = 120.0

# All that a run can lose: a client whose code raises, one whose update is NaN, an actor that dies.
# SCAFFOLD, so that there are auxiliary variables.
SCENARIO: dict[str, Any] = {
    "name": "watched",
    "rounds": 1_000_000,
    "plugins": ["third_party", "killing"],
    "data": {"source": "digits", "test_fraction": 0.2, "partition": {"kind": "iid", "clients": 8}},
    "model": {"kind": "logistic"},
    "client": {
        "batch_size": 32,
        "steps": 2,
        "stack": 1,
        "on_failure": "drop",
        "on_nonfinite": "drop",
        "optimizer": {"lrate": 0.01, "modules": ["scaffold-client"]},
    },
    "server": {"optimizer": {"modules": ["scaffold-server"]}},
    "evaluation": {"every": 1},
    "checkpoint": {"every": 5},
    "cluster": {"actors": 2, "chunk_size": 2},
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Start a cluster for the tests of this file."""
    with cluster_with_dashboard() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def jobs(cluster: Cluster) -> Any:
    """Return Ray's client for jobs."""
    from ray.job_submission import JobSubmissionClient

    return JobSubmissionClient(cluster.dashboard)


@dataclass(frozen=True)
class Watched:
    """A run that continues while it is watched."""

    job: str
    out: Path


@pytest.fixture(scope="module")
def watched(jobs: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Submit a run with all kinds of faults."""
    folder = tmp_path_factory.mktemp("watched")
    kill = f"[kill-at, {{folder: {folder}, client: 1, round: 3}}]"
    mishaps = "[mishaps, {failing: 3, diverging: 5}]"
    modules = f"client.optimizer.modules=[scaffold-client, {mishaps}, {kill}]"
    job = submit(jobs, folder, SCENARIO, "--set", modules)
    yield Watched(job, folder / "out")
    jobs.stop_job(job)


def submit(jobs: Any, folder: Path, scenario: dict[str, Any], *options: str) -> str:
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump(scenario))
    simfl = Path(sys.executable).with_name("simfl")
    command = shlex.join([str(simfl), "run", str(path), "--out", str(folder / "out"), *options])
    while True:  # the test's own time limit ends it
        try:
            job: str = jobs.submit_job(entrypoint=command)
            return job
        except RuntimeError as error:
            # The agent that runs jobs comes up a little later than the dashboard.
            if "No available agent" not in str(error):
                raise
            time.sleep(0.2)


def await_end(jobs: Any, job: str) -> Any:
    while not (info := jobs.get_job_info(job)).status.is_terminal():
        time.sleep(0.2)  # the test's own time limit ends it
    return info


def expressions() -> list[tuple[str, str]]:
    """Return dashboard and panel, and PromQL, of every query."""
    found = []
    for board in BOARDS:
        text = (ROOT / "dashboards" / "grafana" / f"{board}.json").read_text()
        for panel in json.loads(text)["panels"]:
            found += [
                (f"{board}: {panel['title']}", target["expr"])
                for target in panel.get("targets", ())
            ]
    return found


def variables() -> list[tuple[str, str]]:
    """Return name and query of every variable, as often as a dashboard has it."""
    found = []
    for board in BOARDS:
        text = (ROOT / "dashboards" / "grafana" / f"{board}.json").read_text()
        found += [
            (variable["name"], variable["query"])
            for variable in json.loads(text)["templating"]["list"]
            if variable["type"] == "query"
        ]
    return found


def substituted(expression: str, values: dict[str, str]) -> str:
    """Put in the variables' values, as Grafana does; longer names first."""
    for name in sorted(values, key=len, reverse=True):
        expression = expression.replace(f"${name}", values[name])
    assert "$" not in expression, expression
    return expression


def values_of_variables(server: Prometheus) -> dict[str, str]:
    """Ask Prometheus for the variables' values, as Grafana does; the first of each."""
    values = {"__range": "10m", "__rate_interval": "20s"}
    for name, query in variables():
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert match, query
        selector, label = substituted(match[1], values), match[2]
        found = {series[label] for series in server.series(selector)}
        values[name] = (
            "accuracy" if name == "metric" and "accuracy" in found else max(found, default="")
        )
    return values


def selectors(expression: str) -> list[str]:
    """Return the series that an expression is made of.

    Each must exist, also where the expression gives 0 for missing series.
    """
    return re.findall(r"ray_\w+\{[^}]*\}", expression)


def without_data(server: Prometheus) -> list[str]:
    """Return the panels that show nothing, and the series that they miss."""
    values, missing = values_of_variables(server), []
    for panel, expression in expressions():
        asked = substituted(expression, values)
        has_data = any(not math.isnan(float(row["value"][1])) for row in server.query(asked))
        absent = [selector for selector in selectors(asked) if not server.query(selector)]
        if any(name in expression for name in NEEDS_GPU):
            continue  # it has been parsed; a machine without a GPU has no such series
        if not has_data or absent:
            missing.append(f"{panel}: {', '.join(absent) or asked}")
    return missing


# First the tests with their own run, then those that look at the one in progress.
SMALL = SCENARIO | {"rounds": 1, "evaluation": {"every": 1}}


@pytest.mark.parametrize(
    ("per_round", "code"), [pytest.param(4, 0, marks=pytest.mark.slow), (9, 2)]
)
def test_a_jobs_exit_code_is_the_runs(per_round: int, code: int, jobs: Any, tmp_path: Path) -> None:
    """Of the 8 clients 9 cannot take part: bad input."""
    job = submit(jobs, tmp_path, SMALL, "--set", f"client.per_round={per_round}")
    info = await_end(jobs, job)
    assert info.driver_exit_code == code, jobs.get_job_logs(job)
    assert info.status == ("FAILED" if code else "SUCCEEDED")


def test_a_driver_that_attaches_is_a_job_named_after_its_scenario_and_prints_the_dashboard(
    cluster: Cluster, jobs: Any, tmp_path: Path
) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(SMALL | {"name": "attached"}))
    simfl = [sys.executable, "-m", "simfl", "run", path, "--address", cluster.address]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*simfl, "--out", tmp_path / "out"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"Ray's dashboard: {cluster.dashboard}" in done.stdout
    assert "trained in" not in done.stdout + done.stderr
    (known,) = [job.metadata for job in jobs.list_jobs() if job.type == "DRIVER"]
    assert (known["scenario"], known["job_name"]) == ("attached", "attached")


needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None,
    reason="Prometheus is not installed (Debian: apt-get install prometheus)",
)


@needs_prometheus
def test_every_panel_shows_something_of_a_run(
    cluster: Cluster, watched: Watched, tmp_path: Path
) -> None:
    with prometheus(cluster, tmp_path) as server:
        deadline = time.monotonic() + DEADLINE_S
        while (missing := without_data(server)) and time.monotonic() < deadline:
            time.sleep(1.0)
        assert missing == []
        accuracies = {
            record["accuracy"]
            for line in (watched.out / "metrics.jsonl").read_text().splitlines()
            for record in [json.loads(line)]
        }
        scraped = server.query('ray_simfl_measure{metric="accuracy"}[1h]')
        assert {float(value) for row in scraped for _, value in row["values"]} <= accuracies


def test_the_dashboards_use_every_metric() -> None:
    shown = {name for _, expression in expressions() for name in re.findall(r"ray_\w+", expression)}
    assert {metric.series for metric in Metric} <= shown


def test_rays_dashboard_shows_the_actors_by_name_with_their_logs(
    cluster: Cluster, watched: Watched
) -> None:
    from ray.util.state import list_actors

    metrics = watched.out / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.2)  # until the first round is there; the test's own time limit ends it
    actors = {
        (actor.name, actor.repr_name)
        for actor in list_actors(address=cluster.dashboard, detail=True)
        if actor.class_name in ("ServerActor", "ClientActor")
    }
    names = ("server", "client-0", "client-1")
    assert actors == {(name, name) for name in names}
    lines = "".join(path.read_text() for path in cluster.logs.glob("worker-*.err"))
    assert re.search(r"INFO client-\d round=1 clients=2,3 trained in \d+\.\d+ s", lines)
    assert re.search(r"WARNING client-\d round=1 client=3 dropped: ValueError: broken", lines)
    assert re.search(r"WARNING client-\d round=1 client=5 dropped: not finite", lines)
    assert re.search(r"INFO server round=1 clients=6 dropped=2 train_loss=\S+ ended", lines)
