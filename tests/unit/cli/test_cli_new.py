"""``simfl new``, ``simfl show`` and ``simfl doctor``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import yaml

from simfl.errors import ClusterError
from simfl.scenario import load_scenario


@pytest.mark.parametrize("source", ["quickstart", "custom", "play", "flora"])
def test_a_new_scenario_is_valid_and_runs_as_the_one_it_comes_from(simfl, source, monkeypatch):
    monkeypatch.delitem(sys.modules, "own_work", raising=False)  # that of another test
    result = simfl("new", "mine/first", "--from", source)
    assert (result.exit_code, result.stdout) == (0, "mine/first/scenario.yaml\n")
    made, shipped = load_scenario("mine/first/scenario.yaml"), load_scenario(source)
    assert made.name == "first"
    if source == "quickstart":
        assert made.fingerprint() == shipped.fingerprint()
    assert (made.model, made.client) == (shipped.model, shipped.client)


def test_a_new_scenario_has_its_schema_and_can_name_python_of_ones_own(simfl):
    assert simfl("new", "mine").exit_code == 0
    text = Path("mine/scenario.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=scenario.schema.json\n")
    schema = json.loads(Path("mine/scenario.schema.json").read_text())
    jsonschema.validate(yaml.safe_load(text), schema)
    own = "{source: python, path: 'own_work:two_moons', arguments: {examples: 90, noise: 0.1}}"
    checked = simfl("validate", "mine/scenario.yaml", "--set", f"data={own}")
    assert (checked.exit_code, checked.stdout) == (0, "mine/scenario.yaml: ok\n")
    assert "simfl run scenario.yaml" in Path("mine/README.md").read_text()


def test_what_exists_is_left_alone(simfl):
    Path("mine").mkdir()
    result = simfl("new", "mine")
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (
        2,
        "mine exists; give the name of a new folder",
    )
    assert list(Path("mine").iterdir()) == []


def test_a_scenario_is_shown_as_it_is_loaded(simfl, scenario):
    shown = simfl("show", scenario, "--set", "rounds=3")
    assert shown.exit_code == 0
    assert yaml.safe_load(shown.stdout) == load_scenario(scenario, overrides=["rounds=3"]).to_dict()
    assert json.loads(simfl("show", scenario, "--json").stdout)["client"]["batch_size"] is None


def test_a_runs_scenario_is_shown(simfl, scenario):
    Path("run").mkdir()
    Path("run/scenario.yaml").write_text(Path(scenario).read_text())
    assert yaml.safe_load(simfl("show", "run").stdout)["rounds"] == 2
    assert simfl("show", "runn").exit_code == 2


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Note how Ray is started instead of starting it."""
    noted: list[dict[str, Any]] = []

    def connect(**options: Any) -> Any:
        noted.append(options)
        return SimpleNamespace(close=lambda: noted.append({"closed": True}))

    monkeypatch.setattr("simfl.cluster.session.connect", connect)
    return noted


def test_a_machine_is_looked_at_and_ray_started_and_stopped(simfl, ray):
    findings = json.loads(simfl("doctor", "--json").stdout)["findings"]
    assert ray == [{"address": "local", "num_cpus": 1, "dashboard": False}, {"closed": True}]
    names = [finding["name"] for finding in findings]
    assert {"python", "torch", "gpu", "ray starts", "disk of runs", "extras"} <= set(names)
    for line in simfl("doctor").stdout.splitlines()[2:-1]:
        assert line.split("  ")[0] in names


def test_what_does_not_work_is_said_with_a_remedy_and_exits_with_1(simfl, monkeypatch):
    def connect(**options: Any) -> Any:
        raise ClusterError("cannot start a Ray cluster:\nno room")

    monkeypatch.setattr("simfl.cluster.session.connect", connect)
    monkeypatch.setattr(
        "shutil.disk_usage", lambda path: SimpleNamespace(total=100 * 2**30, free=2**29)
    )
    result = simfl("doctor", "--json")
    assert result.exit_code == 1
    bad = {f["name"]: f["found"] for f in json.loads(result.stdout)["findings"] if not f["ok"]}
    assert bad["ray starts"] == "cannot start a Ray cluster: no room"
    assert bad["disk of runs"] == "0 of 100 GiB free"
