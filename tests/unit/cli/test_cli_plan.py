"""``simfl plan``: what would be placed where, against what a run then has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from simfl.cli.main import app
from simfl.cluster.placement import Node
from simfl.cluster.survey import Survey
from simfl.scenario import load_scenario
from simfl.simulation import build, planning
from simfl.simulation.planning import Plan, make_plan

GB = 2.0**30


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[Node]:
    """Let there be a node with two GPUs, and a small one."""
    given = [
        Node("a", "10.0.0.1", {"CPU": 8, "GPU": 2, "memory": 64 * GB, "object_store_memory": GB}),
        Node("b", "10.0.0.2", {"CPU": 4, "memory": 0.5 * GB, "object_store_memory": GB}),
    ]
    free = {"CPU": 3.0, "GPU": 0.5, "memory": GB}
    monkeypatch.setattr(planning, "survey", lambda address, num_cpus: Survey(given, free))
    return given


def scenario(**cluster: Any) -> dict[str, Any]:
    return {
        "rounds": 1,
        "data": {"source": "digits", "partition": {"kind": "iid", "clients": 20}},
        "model": {"kind": "mlp", "hidden": [16]},
        "client": {"per_round": 10, "batch_size": 9, "optimizer": {"lrate": 0.1}},
        "cluster": cluster,
    }


def plan(**cluster: Any) -> Plan:
    return make_plan(build(load_scenario(scenario(**cluster))), None)


def test_bytes_are_those_of_the_model_and_the_cohort(nodes: list[Node]) -> None:
    """64 x 16 + 16 + 16 x 10 + 10 weights of 4 bytes; 1,797 digits of 64 floats and a class id."""
    found = plan(actors=2)
    weights = 4 * (64 * 16 + 16 + 16 * 10 + 10)
    assert (found.weights_bytes, found.sent_bytes) == (weights, 10 * weights)
    index = 8 * (1797 + 21 + 20)
    assert found.dataset_bytes == 1797 * (64 * 4 + 8) + index
    (group,) = found.groups
    assert group.steps == 10 * 10, "about 90 examples each, in batches of 9"


def test_a_frozen_base_is_counted_apart_and_needs_room_on_each_node(nodes: list[Node]) -> None:
    """The base is the first layer, 64 x 16 + 16 weights of 4 bytes."""
    frozen = scenario(actors=1)
    frozen["model"] |= {"fixed": ["hidden1"]}
    found = make_plan(build(load_scenario(frozen)), None)
    head = 4 * (16 * 10 + 10)
    assert (found.fixed_bytes, found.lacks) == (4 * (64 * 16 + 16), ())
    assert (found.weights_bytes, found.sent_bytes) == (head, 10 * head)
    nodes[0].resources["object_store_memory"] = found.dataset_bytes + found.fixed_bytes - 1
    (lack,) = make_plan(build(load_scenario(frozen)), None).lacks
    assert "and the weights that never change 0.00 GiB, and its object store has 0.00 GiB" in lack
    nodes[0].resources["object_store_memory"] += 1
    assert make_plan(build(load_scenario(frozen)), None).lacks == ()


def test_groups_are_placed_on_the_nodes_that_can_hold_them(nodes: list[Node]) -> None:
    gpu = {"name": "gpu", "num_gpus": 0.5, "clients": {"fraction": 0.5}}
    found = plan(groups=[gpu, {"name": "cpu", "actors": 3}])
    assert [group.by_node for group in found.groups] == [{"a": 4}, {"a": 2, "b": 1}]
    assert found.lacks == ()


def test_what_does_not_fit_is_said_with_the_remedy(nodes: list[Node]) -> None:
    (lack,) = plan(actors=13).lacks[:1]
    assert lack.startswith("13 client actors with 1 CPU each need more than there is: ")
    assert "12 CPU, 2 GPU on 2 nodes, room for 12; lower cluster.actors" in lack
    (lack,) = plan(actors=12).lacks
    assert lack.startswith("10.0.0.2: 4 actors take 0.6"), "172 MiB each, and what training takes"


def test_the_command_prints_the_plan_and_exits_with_1_if_it_does_not_fit(
    nodes: list[Node], tmp_path: Path
) -> None:
    file = tmp_path / "scenario.yaml"
    file.write_text(yaml.safe_dump(scenario(actors=2)))
    found = CliRunner().invoke(app, ["plan", str(file)])
    assert found.exit_code == 0
    lines = [" ".join(line.split()) for line in found.output.splitlines()]
    assert "10.0.0.1 8 CPU, 2 GPU, 64.00 GiB 1 client actors" in lines
    assert "free now, all nodes 3 CPU, 0.5 GPU, 1.00 GiB" in lines
    unfit = CliRunner().invoke(app, ["plan", str(file), "--set", "cluster.num_cpus=9"])
    assert unfit.exit_code == 1
    assert "with 9 CPU each need more than there is" in unfit.output


def test_a_client_that_fails_does_so_here_and_not_in_hour_three(
    nodes: list[Node], tmp_path: Path
) -> None:
    plain = scenario() | {"model": {"kind": "mlp", "hidden": [16], "loss": "mse", "outputs": 2}}
    file = tmp_path / "scenario.yaml"
    file.write_text(yaml.safe_dump(plain))
    found = CliRunner().invoke(app, ["plan", str(file)])
    assert found.exit_code == 2
    assert "Traceback" not in found.output
