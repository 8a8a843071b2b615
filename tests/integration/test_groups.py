"""Groups of client actors on several nodes, whose GPUs are numbers on Ray's account."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from states_on_nodes import cluster_of

import simfl
from simfl.errors import ClusterError
from simfl.record import RoundRecord

pytestmark = [pytest.mark.ray, pytest.mark.slow]

HERE = str(Path(__file__).parent)
GPUS = {"num_gpus": 2, "resources": {"accelerator_type:H200": 1}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Start a head, a node with two declared GPUs, and one with a label."""
    with cluster_of({"num_cpus": 4, **GPUS}, {"num_cpus": 1, "labels": {"zone": "b"}}) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def no_gpu_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the inline backend take a CPU for a GPU too."""
    monkeypatch.setattr("simfl.simulation.backends.device_for", lambda who, uses_gpu: "cpu")


def scenario(folder: Path, *modules: Any, **changes: Any) -> dict[str, Any]:
    note = ["note-device", {"folder": str(folder)}]
    return {
        "rounds": 3,
        "seed": 5,
        "plugins": ["killing", "fake_gpus"],
        "search": [HERE],
        "data": {
            "source": "digits",
            "test_fraction": 0.2,
            "partition": {"kind": "dirichlet", "clients": 12, "alpha": 0.5},
        },
        "model": {"kind": "mlp", "hidden": [16]},
        "client": {
            "batch_size": 32,
            "optimizer": {"lrate": 0.05, "modules": [note, *modules, "momentum"]},
        },
        "evaluation": {"clients_every": 3},
    } | changes


def numbers(result: simfl.Result) -> tuple[Any, ...]:
    weights = {name: array.tobytes() for name, array in result.weights.items()}
    return weights, [RoundRecord.parse(record).reproducible for record in result.history]


def inline(plain: dict[str, Any], folder: Path) -> tuple[Any, ...]:
    return numbers(simfl.run(plain, out=folder / "inline", backend="inline"))


def notes(folder: Path) -> dict[int, list[dict[str, Any]]]:
    """Return what each client's actors were given."""
    by_client: dict[int, list[dict[str, Any]]] = {}
    for path in folder.glob("device-*.json"):
        by_client.setdefault(int(path.name.split("-")[1]), []).append(json.loads(path.read_text()))
    return by_client


def test_clients_are_trained_by_their_own_group_on_what_it_was_given(
    tmp_path: Path, cluster: Any
) -> None:
    gpu_node, zone_b = (node.node_id for node in cluster.added)
    groups = [
        {
            "name": "gpu",
            "num_gpus": 0.5,
            "num_cpus": 0.5,
            "accelerator_type": "H200",
            "max_actors": 3,
            "clients": {"fraction": 0.5},
        },
        {"name": "here", "actors": 1, "labels": {"zone": "b"}, "clients": {"range": [0, 2]}},
        {"name": "packed", "actors": 2, "strategy": "strict_pack"},
    ]
    plain = scenario(tmp_path, cluster={"groups": groups})
    expected = inline(plain, tmp_path)
    result = simfl.run(plain, out=tmp_path / "ray")
    assert numbers(result) == expected

    group_of = groups_of(result)
    assert {group_of[c] for c in (0, 1, 2)} == {"here"}
    assert sorted(group_of.values()) == ["gpu"] * 6 + ["here"] * 3 + ["packed"] * 3
    for client, given in notes(tmp_path).items():
        group = group_of[client]
        assert {note["actor"].split("-")[1] for note in given} == {group}
        for note in given:
            gpus = note["gpus"]
            assert (len(gpus), note["visible"]) == ((1, gpus[0]) if group == "gpu" else (0, None))
        nodes = {note["node"] for note in given}
        assert nodes <= {"gpu": {gpu_node}, "here": {zone_b}}.get(group, {gpu_node, zone_b})
    actors = {note["actor"] for given in notes(tmp_path).values() for note in given}
    assert sum(actor.startswith("client-gpu-") for actor in actors) in (2, 3)


def groups_of(result: simfl.Result) -> dict[int, str]:
    """Return the one group by which each client was trained in all rounds."""
    table = ds.dataset(result.out / "clients.parquet").to_table(["client", "actor"]).to_pylist()
    pairs = {(row["client"], row["actor"].split("-")[1]) for row in table}
    assert len(pairs) == 12, "one for each client"
    return dict(pairs)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"num_gpus": 1, "actors": 3}, r"3 client actors with 1 CPU, 1 GPU each need more than"),
        ({"num_gpus": 1, "accelerator_type": "T4"}, r"accelerator type T4 each needs more than"),
        ({"labels": {"zone": "c"}}, r"label zone=c each needs more than"),
        ({"num_cpus": 5}, r"1 client actor with 5 CPU each needs more .* lower cluster\.num_cpus"),
    ],
)
def test_a_demand_that_can_never_be_met_is_an_error_at_once(
    group: dict[str, Any], message: str, tmp_path: Path, cluster: Any
) -> None:
    with pytest.raises(ClusterError, match=message):
        simfl.run(scenario(tmp_path, cluster=group), out=tmp_path / "ray")


def test_an_actor_whose_gpu_is_full_is_ended_and_the_round_goes_on_without_it(
    tmp_path: Path,
    cluster: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor is another one started in its place, however often it is looked for room."""
    monkeypatch.setattr("simfl.cluster.launch.LOOK_S", 0.0)
    full = ["full-at", {"folder": str(tmp_path), "client": 3, "round": 2}]
    gpu = {"actors": 2, "num_gpus": 1}
    expected = inline(scenario(tmp_path, cluster=gpu), tmp_path)
    result = simfl.run(scenario(tmp_path, full, cluster=gpu), out=tmp_path / "ray")
    assert numbers(result) == expected
    assert [record["actors"] for record in result.history] == [2, 1, 1]
    (line,) = capsys.readouterr().err.splitlines()
    assert "its GPU's memory is full; the actor was stopped, 1 of its group continue" in line


def test_a_gpu_that_cannot_hold_a_single_actors_work_ends_the_run(
    tmp_path: Path, cluster: Any
) -> None:
    full = ["full-at", {"folder": str(tmp_path), "client": 3, "round": 2, "times": 9}]
    plain = scenario(tmp_path, full, cluster={"actors": 2, "num_gpus": 1})
    with pytest.raises(ClusterError, match=r"round 2, clients .*memory is full.*client\.stack"):
        simfl.run(plain, out=tmp_path / "ray")


def test_an_actor_joins_with_its_node_in_mid_run(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node joins in round 2, and its actor is there in round 3."""
    monkeypatch.setattr("simfl.cluster.launch.LOOK_S", 0.0)
    on_new_nodes = {"num_cpus": 0.1, "resources": {"elastic": 1}, "max_actors": 2}
    holds = [
        ["hold-at", {"folder": str(tmp_path / f"{n}"), "client": n, "round": n}] for n in (2, 3)
    ]
    plain = scenario(tmp_path, rounds=5, cluster=on_new_nodes)
    expected = inline(plain, tmp_path)
    first = cluster.add_node(num_cpus=1, resources={"elastic": 1})
    for number in (2, 3):
        (tmp_path / f"{number}").mkdir()
    plain = scenario(tmp_path, *holds, rounds=5, cluster=on_new_nodes)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(simfl.run, plain, out=tmp_path / "ray")
        wait_for(lambda: (tmp_path / "2" / "hold-2-0").exists())
        second = cluster.add_node(num_cpus=1, resources={"elastic": 1})
        (tmp_path / "2" / "go").touch()
        wait_for(lambda: (tmp_path / "3" / "hold-3-0").exists())
        wait_for(lambda: answers("client-1"))
        (tmp_path / "3" / "go").touch()
        result = running.result()
    for node in (first, second):
        cluster.remove_node(node)
    assert numbers(result) == expected
    nodes = {note["node"] for given in notes(tmp_path).values() for note in given}
    assert nodes == {first.node_id, second.node_id}


def test_a_round_waits_for_as_many_actors_as_it_needs(tmp_path: Path, cluster: Any) -> None:
    """One of two nodes is lost in round 2; round 3 begins when another has come in its place."""
    on_new_nodes = {"num_cpus": 0.1, "resources": {"needed": 1}, "max_actors": 2, "min_actors": 2}
    hold = ["hold-at", {"folder": str(tmp_path), "client": 2, "round": 2}]
    expected = inline(scenario(tmp_path, rounds=6, cluster=on_new_nodes), tmp_path)
    new = {"num_cpus": 1, "resources": {"needed": 1}}
    first, second = cluster.add_node(**new), cluster.add_node(**new)
    out = tmp_path / "ray"
    with ThreadPoolExecutor() as pool:
        running = pool.submit(
            simfl.run, scenario(tmp_path, hold, rounds=6, cluster=on_new_nodes), out=out
        )
        wait_for(lambda: (tmp_path / "hold-2-0").exists())
        cluster.remove_node(second, allow_graceful=False)
        wait_for(lambda: is_dead(second))
        (tmp_path / "go").touch()
        wait_for(lambda: (out / "metrics.jsonl").read_text().count("\n") >= 2)
        third = cluster.add_node(**new)
        result = running.result()
    for node in (first, third):
        cluster.remove_node(node)
    assert numbers(result) == expected
    nodes = {note["node"] for given in notes(tmp_path).values() for note in given}
    assert third.node_id in nodes, "where the one that was lost was started again"


def is_dead(node: Any) -> bool:
    """Return whether Ray has noticed that a node is lost."""
    import ray

    return not any(row["Alive"] for row in ray.nodes() if row["NodeID"] == node.node_id)


def answers(label: str) -> bool:
    """Return whether an actor of that name exists and has started."""
    import ray

    for named in ray.util.list_named_actors(all_namespaces=True):
        if named["name"] == label:
            call = ray.get_actor(label, named["namespace"]).peak_memory.remote()
            return bool(ray.wait([call], timeout=1.0)[0])
    return False


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.05)
