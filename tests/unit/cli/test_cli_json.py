"""``--json``: what commands print is as ``simfl schema --output`` says, and so are errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import simfl as simfl_package
from simfl.cli.json_output import output_schema
from simfl.cluster.placement import Node
from simfl.cluster.survey import Survey
from simfl.errors import ClusterError
from simfl.simulation import planning
from simfl.sweep import SweepResult, TrialResult
from simfl.sweep.results import Goal

Printed = Callable[..., Any]


def strict(schema: Any) -> Any:
    """Let objects have no keys but those that the schema names."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(item) for key, item in schema.items()}
    return closed | ({"additionalProperties": False} if "properties" in schema else {})


SCHEMA = strict(output_schema())


@pytest.fixture
def printed(simfl) -> Printed:
    """Return what a command prints, valid as what it is to print."""

    def printed(*arguments: str, as_: str | None = None, code: int = 0) -> Any:
        result = simfl(*arguments, "--json")
        assert result.exit_code == code, result.output
        plain = json.loads(result.stdout)
        schema = SCHEMA | {"anyOf": [{"$ref": f"#/$defs/{as_ or arguments[0]}"}]}
        jsonschema.Draft202012Validator(schema).validate(plain)
        return plain

    return printed


@pytest.fixture
def run(simfl, scenario: str) -> str:
    """The folder of a run."""
    assert simfl("run", scenario, "--backend", "inline", "--out", "a", "--quiet").exit_code == 0
    return "a"


def test_a_run_prints_its_folder_and_its_final_numbers(printed: Printed, scenario: str) -> None:
    ran = printed("run", scenario, "--backend", "inline", "--out", "a")
    summary = json.loads(Path("a/summary.json").read_text())
    assert ran["metrics"] == summary["final"]
    assert (ran["folder"], ran["status"], ran["rounds"]) == ("a", "done", 2)
    (listed,) = printed("ls", ".")
    assert listed["value"] == ran["metrics"]["accuracy"]


def test_a_resumed_run_prints_the_same(printed: Printed, scenario: str) -> None:
    def stop(record: object) -> None:
        raise KeyboardInterrupt

    stopped = simfl_package.load_scenario(scenario, overrides=["checkpoint.every=1"])
    with pytest.raises(KeyboardInterrupt):
        simfl_package.run(stopped, out="a", backend="inline", callbacks=[stop])
    resumed = printed("resume", "a", "--backend", "inline")
    ran = printed("run", scenario, "--backend", "inline", "--out", "b")
    assert (resumed["status"], resumed["rounds"]) == ("done", 2)
    assert resumed["metrics"] == ran["metrics"]


def test_a_scenario_is_shown(printed: Printed, scenario: str) -> None:
    assert printed("show", scenario)["rounds"] == 2


def test_findings_about_the_machine_have_a_remedy(
    printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(**options: Any) -> Any:
        raise ClusterError("no room")

    monkeypatch.setattr("simfl.cluster.session.connect", connect)
    findings = printed("doctor", code=1)["findings"]
    assert [f["remedy"] for f in findings if f["name"] == "ray starts"] == [
        "use --backend inline, which needs no Ray"
    ]


def test_runs_are_compared(printed: Printed, run: str) -> None:
    compared = printed("compare", run, run, "--target", "accuracy=0")
    assert (compared["scenario"], compared["first_round"]) == ([], None)
    assert compared["reached_a"]["round"] == 1


def test_a_run_is_verified(printed: Printed, run: str) -> None:
    command = ("verify", run, "--backend", "inline", "--rounds", "1")
    assert printed(*command) == {
        "folder": run,
        "same": True,
        "rounds": 1,
        "checkpoints": [],
        "weights": False,
        "mismatch": None,
    }
    path = Path(run, "metrics.jsonl")
    path.write_text(path.read_text().replace('"steps": ', '"steps": 1'))
    found = printed(*command, code=1)["mismatch"]
    assert (found["round"], found["what"], found["then"]) == (1, "steps", f"1{found['now']}")


def test_the_faults_of_scenarios_have_file_line_key_value_and_remedy(
    printed: Printed, scenario: str
) -> None:
    text = Path(scenario).read_text()
    Path("b.yaml").write_text(
        text.replace("rounds: 2", "rounds: 0").replace("lrate: 0.01", "lr: 0.01")
    )
    good, bad = printed("validate", scenario, "b.yaml", code=2)["scenarios"]
    assert (good["ok"], good["errors"]) == (True, [])
    rounds, rate, *_ = bad["errors"]
    assert rounds == {
        "kind": "ScenarioError",
        "message": "b.yaml:1: rounds: is 0; should be at least 1",
        "file": "b.yaml",
        "line": 1,
        "key": "rounds",
        "value": 0,
        "remedy": "should be at least 1",
        "traceback": None,
    }
    lrate = [e["remedy"] for e in (rate, *_) if e["key"] == "client.optimizer.lr"]
    assert lrate == ["Write client.optimizer.lrate: 0.1"]


@pytest.mark.parametrize(
    ("arguments", "key", "line", "value"),
    [
        (("run", "bad.yaml"), "rounds", 1, "x"),
        (("run", "bad.yaml", "--set", "rounds=0"), "rounds", None, 0),
        (("plan", "bad.yaml"), "rounds", 1, "x"),
        (("data", "bad.yaml"), "rounds", 1, "x"),
        (("sweep", "bad.yaml", "--over", "seed=0,1"), "rounds", 1, "x"),
        (("run", "no.yaml"), None, None, None),
        (("sweep",), None, None, None),
        (("ls", "no"), None, None, None),
        (("compare", "no", "no"), None, None, None),
    ],
)
def test_errors_are_json_as_well(
    printed: Printed, scenario: str, arguments: tuple[str, ...], key: str, line: int, value: Any
) -> None:
    Path("bad.yaml").write_text(Path(scenario).read_text().replace("rounds: 2", "rounds: x"))
    (error,) = printed(*arguments, as_="errors", code=2)["errors"]
    assert (error["key"], error["line"], error["value"]) == (key, line, value)


def test_the_traceback_of_a_users_own_code_is_there(printed: Printed, scenario: str) -> None:
    Path("own.py").write_text("def load():\n    return 1 / 0\n")
    source = ("--set", "data={source: python, path: 'own:load'}")
    (checked,) = printed("validate", scenario, *source, code=2)["scenarios"]
    assert 'own.py", line 2' in checked["errors"][0]["traceback"]


def test_data_are_counted_by_client(printed: Printed, scenario: str) -> None:
    data = printed("data", scenario, "--clients", "3")
    assert (data["num_clients"], len(data["clients"])) == (4, 3)
    for client in data["clients"]:
        assert sum(client["classes"].values()) == client["examples"]


def test_a_plan_has_nodes_and_what_is_lacking(
    printed: Printed, scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node("a", "10.0.0.1", {"CPU": 2.0, "memory": 2.0**34, "object_store_memory": 2.0**30})
    monkeypatch.setattr(planning, "survey", lambda address, num_cpus: Survey([node], None))
    planned = printed("plan", scenario, "--set", "cluster.actors=2")
    assert planned["nodes"][0]["actors"] == {"all": 2}
    assert planned["lacks"] == []
    assert printed("plan", scenario, "--set", "cluster.num_cpus=9", code=1)["lacks"]


def test_a_sweep_has_its_best_values_and_all_trials(
    printed: Printed, scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trial(number: int, state: str, **metrics: float) -> TrialResult:
        values = {"rounds": number // 2, "seed": number}
        return TrialResult(number, values, Path("t"), state, 5, metrics, 1.25, None)

    trials = (
        trial(0, "done", accuracy=0.5),
        trial(1, "done", accuracy=0.7),
        trial(2, "failed"),
    )
    swept = SweepResult(Path("out"), Goal("accuracy", "max"), trials)
    monkeypatch.setattr("simfl.sweep.run_sweep", lambda *arguments, **options: swept)
    plain = printed("sweep", scenario, "--over", "seed=0,1", code=1)
    assert plain["best"]["metrics"] == {"accuracy": pytest.approx(0.6, rel=1e-15)}
    assert [trial["state"] for trial in plain["trials"]] == ["done", "done", "failed"]


def test_the_schema_is_printed_and_describes_every_key(simfl) -> None:
    schema = json.loads(simfl("schema", "--output").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    for name, definition in schema["$defs"].items():
        for key, value in definition.get("properties", {}).items():
            assert value.get("description"), f"{name}.{key}"
