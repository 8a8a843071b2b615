"""Clients that never train: no sampler draws them, and they are evaluated apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import simfl
from simfl.errors import ScenarioError
from simfl.simulation import Simulation, build

CLIENTS = 20
NEW = {"ids": [0, 7, 19]}


def scenario(new: Any, **changes: Any) -> dict[str, Any]:
    return {
        "rounds": 2,
        "data": {
            "source": "digits",
            "partition": {"kind": "dirichlet", "clients": CLIENTS, "alpha": 0.5},
        },
        "model": {"kind": "mlp", "hidden": [8]},
        "client": {"batch_size": 16, "optimizer": {"lrate": 0.1}},
        "evaluation": {"clients_every": 1, "new_clients": new},
    } | changes


def built(new: Any, **changes: Any) -> Simulation:
    return build(simfl.load_scenario(scenario(new, **changes)))


def fault(new: Any, **changes: Any) -> str:
    with pytest.raises(ScenarioError) as raised:
        built(new, **changes)
    (line,) = raised.value.faults
    return str(line)


@pytest.mark.parametrize("sampler", ["uniform", "weighted", "proportional"])
@pytest.mark.parametrize("per_round", [1, 9, 17])
def test_no_sampler_draws_a_new_client(sampler: str, per_round: int) -> None:
    """Over 40 rounds all others take part, but for a sampler that favours large clients."""
    client = {"per_round": per_round, "sampler": sampler, "optimizer": {"lrate": 0.1}}
    simulation = built(NEW, client=client)
    plans = [simulation.plan_round(round) for round in range(1, 41)]
    drawn = {client for plan in plans for client in plan.clients}
    assert drawn <= set(range(CLIENTS)) - {0, 7, 19}
    assert per_round == 1 or sampler != "uniform" or len(drawn) == 17
    for plan in plans:
        assert len(set(plan.clients)) == per_round
        assert list(plan.num_steps) == simulation.num_steps[list(plan.clients)].tolist()
        assert sorted(plan.num_steps, reverse=True) == list(plan.num_steps)


@pytest.mark.parametrize(
    "sampler", ["poisson", "round-robin", ["power-of-choice", {"candidates": 12}]]
)
def test_samplers_that_look_back_or_draw_any_number_see_the_others_alone(
    sampler: Any, tmp_path: Path
) -> None:
    """The last client that trains is the seventeenth of those that they see."""
    client = {"per_round": 5, "sampler": sampler, "optimizer": {"lrate": 0.1}}
    result = simfl.run(
        scenario(NEW, client=client, rounds=12), out=tmp_path / "out", backend="inline"
    )
    trained = set(pq.read_table(result.out / "clients.parquet")["client"].to_pylist())
    assert trained <= set(range(CLIENTS)) - {0, 7, 19}
    assert max(trained) == 18
    assert sampler != "round-robin" or len(trained) == 17
    assert result.history[-1]["client_new_loss_count"] == 3


def test_groups_train_their_clients_without_the_new_ones() -> None:
    groups = [{"name": "first", "clients": {"range": [0, 9]}}, {"name": "rest"}]
    simulation = built(NEW, cluster={"groups": groups})
    plan = simulation.plan_round(1)
    by_group = {part.group: set(plan.clients[part.begin : part.end]) for part in plan.split()}
    assert by_group == {0: set(range(10)) - {0, 7}, 1: set(range(10, 19))}


def test_all_that_are_left_take_part_by_default_and_modules_count_them() -> None:
    modules = {"client": ["scaffold-client"], "server": ["scaffold-server"]}
    simulation = built(
        {"range": [5, 9]},
        client={"optimizer": {"lrate": 0.1, "modules": modules["client"]}},
        server={"optimizer": {"modules": modules["server"]}, "weighting": "uniform"},
    )
    assert simulation.cohort_size == 15
    assert simulation.server.population == 15
    (module,) = simulation.server.optimizer.modules
    assert module.get_config()["num_clients"] == 15


def test_a_fraction_is_drawn_by_the_seed() -> None:
    drawn = [set(built({"fraction": 0.25}, seed=s).participants.tolist()) for s in (1, 1, 2)]
    assert [len(some) for some in drawn] == [15, 15, 15]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_column_can_select_them(tmp_path: Path) -> None:
    rows = [f"{c},{'new' if c % 3 == 0 else 'old'},{c % 2},{c % 2}\n" for c in range(6)] * 4
    (tmp_path / "data.csv").write_text("client,kind,x,y\n" + "".join(rows))
    data = {"source": "csv", "path": str(tmp_path / "data.csv"), "target": "y"}
    data |= {"features": ["x"], "partition": None}
    simulation = built({"column": "kind", "values": ["new"]}, data=data, model={"kind": "logistic"})
    assert simulation.participants.tolist() == [1, 2, 4, 5]


def test_they_are_reported_apart(tmp_path: Path) -> None:
    """The means are those of the table's rows."""
    result = simfl.run(scenario(NEW), out=tmp_path / "out", backend="inline")
    table = pq.read_table(result.out / "evaluations.parquet").to_pandas()
    assert list(table) == ["round", "client", "weight", "new", "loss", "accuracy"]
    assert table[table.new].client.tolist() == [0, 7, 19] * 2
    last = table[table["round"] == 2]
    record = result.history[1]
    for prefix, rows in (("client_", last[~last.new]), ("client_new_", last[last.new])):
        assert record[f"{prefix}accuracy"] == pytest.approx(rows.accuracy.mean())
        assert record[f"{prefix}loss_std"] == pytest.approx(rows.loss.std(ddof=0))
        assert record[f"{prefix}loss_count"] == len(rows)
        assert record[f"{prefix}loss_best"] == pytest.approx(
            np.sort(rows.loss)[: max(1, round(len(rows) / 10))].mean()
        )
    trained = pq.read_table(result.out / "clients.parquet")["client"].to_pylist()
    assert sorted(set(trained)) == sorted(set(range(CLIENTS)) - {0, 7, 19})


def test_bad_selections_are_one_line() -> None:
    per_round = {"per_round": 18, "optimizer": {"lrate": 0.1}}
    assert fault(NEW, client=per_round).endswith(
        "client.per_round: is 18, but only 17 of 20 clients train, as evaluation.new_clients "
        "selects the others; lower it to 17"
    )
    assert fault({"range": [0, 19]}).endswith(
        "evaluation.new_clients: selects all 20 clients, and none would train; select fewer"
    )
    assert fault({"fraction": 0.01}).endswith(
        "evaluation.new_clients: selects none of 20 clients; select others"
    )
    assert fault({"ids": [20]}).endswith(
        "evaluation.new_clients: has client 20, but clients are numbered from 0 to 19"
    )
    assert fault({}).endswith(
        "evaluation.new_clients: is empty; give one of fraction, range, ids and column"
    )
    never = {"new_clients": NEW, "clients_every": 0}
    assert fault(NEW, evaluation=never).endswith(
        "evaluation.new_clients: is given, but clients are not evaluated; set "
        "evaluation.clients_every as well"
    )


def test_an_aggregator_that_needs_more_clients_than_are_left_is_refused() -> None:
    krum = {"aggregator": ["krum", {"num_byzantine": 7, "num_selected": 2}]}
    assert built({"ids": [0]}, server=krum).cohort_size == 19
    assert "server.aggregator" in fault({"range": [0, 9]}, server=krum)
