"""PromQL on series made by hand, evaluated by the real Prometheus; and Ray's own names in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from dashboards.queries import NEEDS_GPU, RUN, busy_actors, busy_share

RAN = 'run="a",scenario="s"'
# Every 5 s for ten minutes. client-0 is busy half of the time; so is client-1 for two minutes,
# and then it is gone: its counter stands still, and its slowest client is no longer reported.
SERIES = {
    f'ray_simfl_busy_seconds_total{{{RAN},role="client",actor="client-0"}}': "0+2.5x120",
    f'ray_simfl_busy_seconds_total{{{RAN},role="client",actor="client-1"}}': "0+2.5x24 60x96",
    f'ray_simfl_slowest_client_seconds{{{RAN},role="client",actor="client-0"}}': "1x120",
    f'ray_simfl_slowest_client_seconds{{{RAN},role="client",actor="client-1"}}': "1x24",
    f"ray_simfl_idle_seconds_total{{{RAN}}}": "0+5x24 122.5+2.5x95",
}
TWO_ACTORS, SHORTLY_AFTER, ONE_ACTOR = "2m", "4m", "10m"


def expected(expression: str, at: str, values: dict[str, float]) -> dict[str, Any]:
    """Return a test as promtool takes it."""
    text = expression.replace("$__rate_interval", "1m").replace("$run", "a")
    samples = [{"labels": labels, "value": value} for labels, value in values.items()]
    return {"expr": text, "eval_time": at, "exp_samples": samples}


def check(folder: Path, *tests: dict[str, Any]) -> None:
    """Have Prometheus evaluate expressions, and compare."""
    if shutil.which("promtool") is None:
        pytest.skip("Prometheus is not installed (Debian: apt-get install prometheus)")
    series = [{"series": name, "values": values} for name, values in SERIES.items()]
    group = {"interval": "5s", "input_series": series, "promql_expr_test": list(tests)}
    file = folder / "tests.yml"
    file.write_text(yaml.safe_dump({"rule_files": [], "tests": [group]}))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout


def test_the_busy_fraction_is_of_existing_client_actors(tmp_path: Path) -> None:
    """The fraction is a half with two actors, and with the remaining one."""
    check(
        tmp_path,
        expected(busy_share(RUN), TWO_ACTORS, {'{run="a"}': 0.5}),
        expected(busy_share(RUN), ONE_ACTOR, {'{run="a"}': 0.5}),
    )


def test_a_removed_actor_is_no_longer_shown(tmp_path: Path) -> None:
    first, second = (f'{{run="a",actor="client-{n}"}}' for n in (0, 1))
    check(
        tmp_path,
        expected(busy_actors(RUN), TWO_ACTORS, {first: 0.5, second: 0.5}),
        # It may be idle only: for five minutes it is shown as such.
        expected(busy_actors(RUN), SHORTLY_AFTER, {first: 0.5, second: 0.0}),
        expected(busy_actors(RUN), ONE_ACTOR, {first: 0.5}),
    )


def test_rays_gpu_series_have_these_names_in_the_installed_ray() -> None:
    """No machine without a GPU has them; Ray's own dashboards ask for the same names and labels."""
    panels = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    asked = "".join(path.read_text() for path in panels.glob("*.py"))
    for name in NEEDS_GPU:
        assert re.search(rf"\b{name}\b", asked), name
    board = json.loads((Path(__file__).parents[3] / "dashboards/grafana/actors.json").read_text())
    shown = json.dumps(board)
    assert all(name in shown for name in NEEDS_GPU)
    assert "GpuIndex" in asked
