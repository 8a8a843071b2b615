"""simfl.run: a scenario in, a result and a folder out."""

from __future__ import annotations

import json
import math
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch_file
from torch import nn

import simfl
from simfl.errors import ConfigError, InputError, NonFiniteUpdateError, RunError, ScenarioError
from simfl.models import DataShape, Metric
from simfl.observers import ClientTable, Observer
from simfl.optimizer import Context, OptiModule, State
from simfl.record import RoundRecord, require_own_names
from simfl.sampling import Uniform, UniformInt
from simfl.simulation import RunOptions, build, open_run
from simfl.simulation.folder import read_history
from simfl.vector import Vector


@pytest.fixture
def scenario(tmp_path: Path) -> dict[str, Any]:
    """Three clients with 4, 8 and 12 examples of a linear problem, and a test split."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(24, 5)).astype(np.float32)
    targets = (inputs.sum(axis=1) > 0).astype(np.int64)
    arrays = {"inputs": inputs, "targets": targets, "client": np.repeat([0, 1, 2], [4, 8, 12])}
    np.savez(tmp_path / "data.npz", test_inputs=inputs, test_targets=targets, **arrays)
    return {
        "rounds": 4,
        "data": {"source": "npz", "path": str(tmp_path / "data.npz")},
        "model": {"kind": "logistic"},
        "client": {"per_round": 2, "batch_size": 4, "optimizer": {"lrate": 0.1}},
        "evaluation": {"every": 2},
    }


def test_the_history_the_files_and_the_result_agree(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = simfl.run(scenario, out=out, backend="inline")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert lines == result.history
    assert [record["round"] for record in result.history] == [1, 2, 3, 4]
    assert ["accuracy" in record for record in result.history] == [False, True, False, True]
    for name in result.history[0]:
        with pytest.raises(ConfigError, match="is a field of the records"):
            require_own_names([name])
    assert json.loads((out / "summary.json").read_text()) == result.summary
    assert result.summary["final"]["accuracy"] == result.history[-1]["accuracy"]
    assert result.summary["final"]["train_loss"] == result.history[-1]["train_loss"]
    saved = load_file(out / "weights.safetensors")
    assert {name: array.tolist() for name, array in saved.items()} == {
        name: array.tolist() for name, array in result.weights.items()
    }
    assert result.out == out


def test_the_resolved_scenario_in_the_folder_gives_the_same_run(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    first = simfl.run(scenario, out=tmp_path / "a", backend="inline")
    again = simfl.run(tmp_path / "a" / "scenario.yaml", out=tmp_path / "b", backend="inline")
    for name, array in first.weights.items():
        assert array.tobytes() == again.weights[name].tobytes()
    resolved = yaml.safe_load((tmp_path / "a" / "scenario.yaml").read_text())
    assert resolved["server"]["optimizer"]["lrate"] == 1.0


def test_central_evaluation_is_torchs_on_the_whole_test_split(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    """In batches of 5 and one of 4, so that the last batch weighs less."""
    scenario["evaluation"] = {"batch_size": 5}
    result = simfl.run(scenario, out=tmp_path / "out", backend="inline")
    data = np.load(tmp_path / "data.npz")
    weights = {name: torch.tensor(array) for name, array in result.weights.items()}
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 2))
    for parameter, value in zip(model.parameters(), sorted_by_rank(weights), strict=True):
        parameter.data = value
    outputs = model(torch.tensor(data["inputs"]))
    targets = torch.tensor(data["targets"])
    loss = nn.functional.cross_entropy(outputs, targets).item()
    assert result.history[-1]["loss"] == pytest.approx(loss, rel=1e-5)
    accuracy = (outputs.argmax(1) == targets).float().mean().item()
    assert result.history[-1]["accuracy"] == pytest.approx(accuracy)


def test_the_folder_has_the_directions_of_metrics_and_the_one_that_ranks_runs(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    metrics = [{"kind": "top-k", "k": 1}, "accuracy"]
    scenario["evaluation"] = {"clients_every": 1, "metrics": metrics}
    result = simfl.run(scenario, out=tmp_path / "out", backend="inline")
    written = json.loads((tmp_path / "out" / "run.json").read_text())
    better = written["better"]
    assert list(better)[:3] == ["top-1", "accuracy", "loss"]
    assert [better[key] for key in ("top-1", "loss", "client_loss_worst")] == ["max", "min", "min"]
    evaluated = {
        name
        for name in RoundRecord.parse(result.history[0]).measures
        if not name.endswith("_count")
    }
    assert evaluated == better.keys()
    assert written["units"]["sent_bytes"] == "B"
    assert {key for key, unit in written["units"].items() if unit == "s"} == {
        key for key in result.history[0] if key.startswith("seconds")
    }


@dataclass(frozen=True)
class Dollars(Metric):
    """A metric with a unit."""

    name: ClassVar[str] = "dollars"
    unit: ClassVar[str | None] = "USD"

    def per_example(self, outputs: Any, targets: Any) -> Any:
        return outputs.sum(-1)


def test_the_folder_has_the_units_of_metrics(scenario: dict[str, Any], tmp_path: Path) -> None:
    scenario |= {"rounds": 1, "evaluation": {"clients_every": 1, "metrics": ["dollars"]}}
    simfl.run(scenario, out=tmp_path / "out", backend="inline")
    units = json.loads((tmp_path / "out" / "run.json").read_text())["units"]
    assert {key for key, unit in units.items() if unit == "USD"} == {
        *("dollars", "client_dollars", "client_dollars_by_examples"),
        *("client_dollars_std", "client_dollars_worst", "client_dollars_best"),
    }


def sorted_by_rank(weights: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Return the matrix, then the bias."""
    return sorted(weights.values(), key=lambda tensor: -tensor.dim())


def test_per_client_evaluation_reports_mean_spread_and_the_worst(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    scenario["evaluation"] = {"every": 0, "clients_every": 2}
    result = simfl.run(scenario, out=tmp_path / "out", backend="inline")
    assert "client_accuracy" not in result.history[0]
    record = result.history[1]
    assert record["client_accuracy_worst"] <= record["client_accuracy"] <= 1
    assert record["client_loss_worst"] >= record["client_loss"]
    assert record["client_loss_std"] > 0
    assert "accuracy" not in record


def test_a_folder_with_a_run_in_it_is_not_overwritten(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    simfl.run(scenario, out=tmp_path / "out", backend="inline")
    before = (tmp_path / "out" / "metrics.jsonl").read_text()
    with pytest.raises(InputError, match=r"holds a run already.*choose another.*--resume auto"):
        simfl.run(scenario, out=tmp_path / "out", backend="inline")
    assert (tmp_path / "out" / "metrics.jsonl").read_text() == before


def test_without_out_each_run_gets_a_folder_of_its_own(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    scenario |= {"name": "twice", "rounds": 1, "output": {"dir": str(tmp_path / "runs")}}
    folders = {simfl.run(scenario, backend="inline").out for _ in range(2)}
    assert len(folders) == 2
    assert all(folder.parent == tmp_path / "runs" for folder in folders)
    assert all(folder.name.startswith("twice-") for folder in folders)


def test_more_clients_per_round_than_the_population_are_refused_with_the_key(
    scenario: dict[str, Any],
) -> None:
    scenario["client"]["per_round"] = 4
    with pytest.raises(ScenarioError, match=r"client\.per_round.*is 4.*3 clients"):
        build(simfl.load_scenario(scenario))


@pytest.mark.parametrize(
    ("share", "size"), [(0.01, 1), (0.4, 1), (0.5, 2), (0.75, 2), (0.9, 3), (3, 3), (None, 3)]
)
def test_a_share_of_the_population_is_rounded_to_the_nearest_number_of_clients(
    scenario: dict[str, Any], share: float | None, size: int
) -> None:
    """Of three clients; a share is below 1, and an integer is a number of clients."""
    scenario["client"]["per_round"] = share
    simulation = build(simfl.load_scenario(scenario))
    assert simulation.cohort_size == size
    assert len(simulation.plan_round(1).clients) == size


@pytest.mark.parametrize("key", ["epochs", "steps"])
def test_stragglers_that_leave_no_client_to_train_are_refused_with_the_key(
    scenario: dict[str, Any], key: str
) -> None:
    scenario["client"] |= {key: ["stragglers", {"share": 0.9, "full": 5, "drop": True}]}
    message = rf"client\.{key}: drops each of the 2 clients of a round; lower share, 0\.9, or raise"
    with pytest.raises(ScenarioError, match=message):
        build(simfl.load_scenario(scenario))


def test_a_round_whose_clients_have_all_drawn_no_work_changes_nothing(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    chances = {"values": [0, 1], "probabilities": [1, 0]}
    scenario["client"]["epochs"] = ["choice", chances]
    result = simfl.run(scenario, out=tmp_path / "out", backend="inline")
    start = build(simfl.load_scenario(scenario)).server.build().get_weights()
    for name, weights in result.weights.items():
        assert weights.tolist() == start[name].tolist()
    for record in result.history:
        assert (record["clients"], record["dropped"], record["steps"]) == (0, 2, 0)
        assert record.get("train_loss") is None


def test_a_distribution_that_returns_no_amounts_is_refused_with_the_key(
    scenario: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UniformInt, "draw", lambda *_: [2])
    scenario["client"]["steps"] = ["uniform-int", {"high": 5}]
    with pytest.raises(ScenarioError, match=r"client\.steps: work 'uniform-int' returned"):
        build(simfl.load_scenario(scenario))


@pytest.mark.parametrize("stack", [1, 2])
def test_dropped_stragglers_are_told_of_and_cost_a_broadcast(
    scenario: dict[str, Any], tmp_path: Path, stack: int
) -> None:
    scenario["client"] |= {
        "per_round": 3,
        "stack": stack,
        "epochs": ["stragglers", {"share": 0.3, "full": 2, "drop": True}],
    }
    scenario |= {"rounds": 2}
    scenario["output"] = {"observers": ["remember-tables"]}
    RememberTables.tables = []
    result = simfl.run(scenario, out=tmp_path / "out", backend="inline")
    for record, table in zip(result.history, RememberTables.tables, strict=True):
        assert (record["clients"], record["dropped"]) == (2, 1)
        assert record["sent_bytes"] * 2 == record["received_bytes"] * 3
        assert list(table.dropped.values()) == ["straggler"]
        assert table.num_steps.tolist()[-1] == 0
        assert table.client.tolist()[-1] == next(iter(table.dropped))


@pytest.mark.parametrize(
    ("aggregator", "message"),
    [
        (["krum", {"num_byzantine": 1}], r"server\.aggregator: .*at least 5 .* there are 3"),
        (["trimmed-mean", {"trim": 0.3}], r"server\.aggregator: .*at least 4 .* there are 3"),
    ],
)
def test_a_cohort_too_small_for_a_robust_rule_is_refused_before_the_start(
    scenario: dict[str, Any], aggregator: list[Any], message: str
) -> None:
    scenario["client"]["per_round"] = 3
    scenario["server"] = {"aggregator": aggregator}
    with pytest.raises(ScenarioError, match=message):
        build(simfl.load_scenario(scenario))


def test_an_algorithm_for_another_number_of_clients_is_refused_before_the_start(
    scenario: dict[str, Any],
) -> None:
    scenario["algorithm"] = ["gossip", {"nodes": 1000}]
    with pytest.raises(ScenarioError, match=r"algorithm: nodes is 1000, but there are \d+ clients"):
        build(simfl.load_scenario(scenario))


def test_a_sampler_that_returns_no_cohort_is_refused_before_anything_starts(
    scenario: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Uniform, "sample", lambda *args, **options: [2, 2])
    with pytest.raises(ScenarioError, match=r"client\.sampler: sampler 'uniform' returned"):
        build(simfl.load_scenario(scenario))


def test_a_loss_that_does_not_fit_the_model_is_refused_before_the_start(
    scenario: dict[str, Any],
) -> None:
    scenario["model"] |= {"loss": "mse", "outputs": 2}
    with pytest.raises(ScenarioError, match=r"model\.loss: .*mse: outputs of shape \[7, 2\]"):
        build(simfl.load_scenario(scenario))


@pytest.mark.parametrize("loss", ["bce-with-logits", "mse", "mae", "huber"])
def test_a_loss_of_numbers_has_one_output_for_an_integer_target(
    scenario: dict[str, Any], loss: str
) -> None:
    scenario["model"]["loss"] = loss
    weights = build(simfl.load_scenario(scenario)).server.build_model().get_weights()
    assert weights["output.weight"].shape == (1, 5)


def test_classes_that_binary_cross_entropy_cannot_tell_are_refused(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    targets = np.arange(24) % 3
    arrays = {"inputs": np.zeros((24, 5), np.float32), "client": np.arange(24) % 3}
    np.savez(tmp_path / "data.npz", targets=targets, **arrays)
    scenario["model"]["loss"] = "bce-with-logits"
    with pytest.raises(InputError, match="integers up to 2, but it expects 0 and 1"):
        build(simfl.load_scenario(scenario))


def test_updates_that_are_not_finite_end_the_run_and_keep_its_files(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    scenario["client"]["optimizer"] = {"lrate": 1e38, "w_decay": 1.0}
    with pytest.raises(NonFiniteUpdateError, match=r"client \d+ sent an update with NaN"):
        simfl.run(scenario, out=tmp_path / "out", backend="inline")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "NaN or infinite" in summary["error"]
    assert not (tmp_path / "out" / "weights.safetensors").exists()


def test_dropped_updates_are_counted_in_history_and_summary(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    """Each step multiplies weights by -1e30: two overflow float32, one (4 examples) does not."""
    scenario["client"] |= {
        "per_round": 3,
        "on_nonfinite": "drop",
        "optimizer": {"lrate": 1e20, "w_decay": 1e10},
    }
    scenario["rounds"] = 1
    result = simfl.run(scenario, out=tmp_path / "out", backend="inline")
    assert (result.history[0]["clients"], result.history[0]["dropped"]) == (1, 2)
    assert result.summary["dropped"] == 2


@dataclass(frozen=True)
class PerClient(OptiModule):
    """Divides by the population, which is no field of it that simfl would know of."""

    name: ClassVar[str] = "per-client-of-a-test"

    count: int = 1

    def for_population(self, num_clients: int) -> PerClient:
        return PerClient(num_clients)

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        return gradients / self.count, state


@pytest.mark.parametrize(
    ("config", "expected"),
    [({}, 2.0), ({"num_clients": "population"}, 2.0), ({"num_clients": None}, 3.0)],
)
def test_scaffold_divides_by_the_population_or_by_those_seen(
    scenario: dict[str, Any], config: dict[str, Any], expected: float
) -> None:
    """Two of three clients have sent 6 together: c is 6 / 3, or 6 / 2."""
    scenario["client"]["optimizer"]["modules"] = ["scaffold-client", PerClient.name]
    scenario["server"] = {"optimizer": {"modules": [["scaffold-server", config], PerClient.name]}}
    simulation = build(simfl.load_scenario(scenario))
    server, client = simulation.server.optimizer, simulation.client.optimizer
    server.process_aux_var({"scaffold": {"delta": Vector({"w": torch.tensor(6.0)}), "num_new": 2}})
    assert server.collect_aux_var()["scaffold"]["state"]["w"].item() == expected
    assert server.modules[1] == client.modules[1] == PerClient(3)


def test_the_initial_weights_depend_on_the_seed_alone(scenario: dict[str, Any]) -> None:
    def initial(seed: int) -> Vector:
        torch.manual_seed(torch.randint(1000, ()).item())
        return build(simfl.load_scenario(scenario | {"seed": seed})).server.build().get_weights()

    assert initial(0) == initial(0)
    assert initial(0) != initial(1)


def test_a_class_that_only_the_test_split_has_counts(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    data = dict(np.load(tmp_path / "data.npz"))
    data["test_targets"] = data["test_targets"].copy()
    data["test_targets"][0] = 6
    np.savez(tmp_path / "data.npz", **data)
    shape = build(simfl.load_scenario(scenario)).client.shape
    assert isinstance(shape, DataShape)
    assert shape.num_classes == 7


def test_seconds_are_wall_time_and_the_rest_is_finite(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    result = simfl.run(scenario, out=tmp_path / "out", backend="inline")
    assert all(record["seconds"] > 0 for record in result.history)
    for record in result.history:
        parts = [value for name, value in record.items() if name.startswith("seconds_")]
        assert sum(parts) == pytest.approx(record["seconds"])
    assert sum(r["seconds"] for r in result.history) <= result.summary["wall_seconds"]
    assert all(math.isfinite(value) for record in result.history for value in record.values())


@pytest.mark.parametrize("stack", [1, 2])
def test_bytes_are_those_of_the_weights_and_of_scaffolds_variables(
    stack: int, scenario: dict[str, Any], tmp_path: Path
) -> None:
    """5 * 2 weights and 2 biases, float32: 48 bytes, out and back for each of two clients.

    SCAFFOLD adds as much: from round 1 on its way back, from round 2 on also on its way out.
    """
    scenario["client"]["stack"] = stack
    plain = simfl.run(scenario | {"rounds": 2}, out=tmp_path / "plain", backend="inline")
    names = ("sent_bytes", "received_bytes", "aux_bytes")
    assert [tuple(r[n] for n in names) for r in plain.history] == [(96, 96, 0), (96, 96, 0)]
    scenario["client"]["optimizer"]["modules"] = ["scaffold-client"]
    scenario["server"] = {"optimizer": {"modules": ["scaffold-server"]}}
    result = simfl.run(scenario | {"rounds": 2}, out=tmp_path / "out", backend="inline")
    assert [tuple(r[n] for n in names) for r in result.history] == [(96, 192, 96), (192, 192, 192)]


class RememberTables(Observer):
    name: ClassVar[str] = "remember-tables"

    tables: ClassVar[list[ClientTable]] = []

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        self.tables.append(clients)


def test_observers_receive_every_client(scenario: dict[str, Any], tmp_path: Path) -> None:
    """Of what they hold and do, and of their evaluation where the round has one."""

    scenario |= {"rounds": 2, "evaluation": {"every": 0, "clients_every": 2}}
    scenario["output"] = {"observers": ["remember-tables"]}
    RememberTables.tables = []
    result = simfl.run(scenario, out=tmp_path / "out", backend="inline")
    first, second = RememberTables.tables
    cohort = build(simfl.load_scenario(scenario)).plan_round(1).clients
    assert tuple(first.client) == cohort
    assert first.num_examples.tolist() == [4 * (client + 1) for client in cohort]
    assert first.num_steps.tolist() == [client + 1 for client in cohort]
    assert first.actors == ("inline",)
    assert first.evaluation is None
    assert second.evaluation is not None
    assert second.evaluation.weight.tolist() == [4, 8, 12]
    accuracies = second.evaluation.metrics["accuracy"]
    assert accuracies.mean() == pytest.approx(result.history[1]["client_accuracy"])


def test_the_automatic_stack_size_is_in_the_resolved_scenario(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    """Two clients a round are too few for stacks."""
    simfl.run(scenario, out=tmp_path / "out", backend="inline")
    resolved = yaml.safe_load((tmp_path / "out" / "scenario.yaml").read_text())
    assert resolved["client"]["stack"] == 1


def centred(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return losses of a batch as a whole."""
    losses = nn.functional.cross_entropy(outputs, targets, reduction="none")
    return losses + losses.mean()


def test_a_loss_of_the_batch_as_a_whole_is_trained_one_client_at_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By default dense models are stacked."""
    loss = ["python", {"path": f"{__name__}:centred"}]
    scenario: dict[str, Any] = {
        "rounds": 2,
        "data": {"source": "digits", "partition": {"kind": "dirichlet", "clients": 12, "alpha": 1}},
        "model": {"kind": "mlp", "hidden": [4], "loss": loss},
        "client": {"optimizer": {"lrate": 0.1}},
    }
    found = simfl.run(scenario, out=tmp_path / "auto", backend="inline").weights
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"clients are trained one at a time, not in stacks: the per-example "
        f"values of loss '{__name__}:centred' depend on the other examples in the batch"
    )
    for stack in (1, 4):
        scenario["client"]["stack"] = stack
        expected = simfl.run(scenario, out=tmp_path / str(stack), backend="inline").weights
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)


def test_the_driver_releases_the_examples_once_the_engine_has_them(
    scenario: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples: list[weakref.ref[np.ndarray]] = []

    class Elsewhere:
        """An engine that has put the examples somewhere else."""

        def open(self) -> None:
            assert [ref() is None for ref in examples] == [True]
            raise RunError("seen")

        def close(self) -> None:
            pass

    def make_engine(simulation: Any, *args: Any, **options: Any) -> Elsewhere:
        examples.append(weakref.ref(simulation.dataset.train.inputs))
        return Elsewhere()

    monkeypatch.setattr("simfl.simulation.runner.make_engine", make_engine)
    with pytest.raises(RunError, match="seen"):
        simfl.run(scenario, out=tmp_path / "run", backend="inline")
    assert examples


def test_a_run_that_is_left_early_is_stopped_and_resumes_to_the_same_end(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    scenario |= {"checkpoint": {"every": 1}}
    out = tmp_path / "out"
    with open_run(simfl.load_scenario(scenario), out, RunOptions("inline")) as run:
        rounds = run.rounds()
        assert [next(rounds)["round"], next(rounds)["round"]] == [1, 2]
    assert not list(rounds)
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["status"], summary["rounds"]) == ("stopped", 2)
    two_rounds = simfl.run(scenario | {"rounds": 2}, out=tmp_path / "two", backend="inline")
    for name, array in load_file(out / "weights.safetensors").items():
        assert array.tobytes() == two_rounds.weights[name].tobytes()

    whole = simfl.run(scenario, out=tmp_path / "whole", backend="inline")
    resumed = simfl.resume(out, backend="inline")
    assert resumed.summary["status"] == "done"
    for name, array in whole.weights.items():
        assert array.tobytes() == resumed.weights[name].tobytes()


def test_a_run_that_is_left_after_its_last_round_is_done(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    with open_run(simfl.load_scenario(scenario), tmp_path / "out", RunOptions("inline")) as run:
        rounds = run.rounds()
        for _ in range(scenario["rounds"]):
            next(rounds)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["status"] == "done"


@dataclass(frozen=True)
class Precision(Metric):
    """Of the examples that are predicted to be of class 2, of which there are none, the share."""

    name: ClassVar[str] = "precision-of-a-test"

    def sums(self, outputs: Any, targets: Any, sample_weights: Any = None) -> tuple[float, float]:
        predicted = outputs.argmax(-1) == 2
        return float((predicted & (targets == 2)).sum()), float(predicted.sum())


@pytest.mark.filterwarnings("error")
def test_an_undefined_metric_is_null_everywhere(scenario: dict[str, Any], tmp_path: Path) -> None:
    scenario |= {
        "rounds": 1,
        "evaluation": {"clients_every": 1, "metrics": ["precision-of-a-test"]},
    }
    result = simfl.run(scenario, out=tmp_path / "out", backend="inline")
    (record,) = result.history
    key = "precision-of-a-test"
    names = [f"client_{key}{end}" for end in ("", "_by_examples", "_std", "_worst")]
    assert [record[name] for name in (key, *names)] == [None] * 5
    assert record[f"client_{key}_count"] == 0
    assert record["client_loss_count"] == 3
    (line,) = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert "NaN" not in line
    assert json.loads(line) == record
    rows = pq.read_table(tmp_path / "out" / "evaluations.parquet")
    assert rows[key].to_pylist() == [None] * 3
    assert rows["loss"].null_count == 0
    assert result.summary["final"][key] is None


@dataclass(frozen=True)
class Overflowing(Metric):
    """Is infinite for all examples."""

    name: ClassVar[str] = "overflowing-of-a-test"

    def per_example(self, outputs: Any, targets: Any) -> Any:
        return torch.full(targets.shape, torch.inf)


def test_a_metric_that_is_not_finite_is_null(scenario: dict[str, Any], tmp_path: Path) -> None:
    metric = "overflowing-of-a-test"
    scenario |= {"rounds": 1, "evaluation": {"clients_every": 1, "metrics": [metric]}}
    result = simfl.run(scenario, out=tmp_path / "out", backend="inline")
    assert result.history[0][metric] is None
    assert result.history[0][f"client_{metric}"] is None
    assert "Infinity" not in (tmp_path / "out" / "metrics.jsonl").read_text()


def test_a_line_of_an_earlier_version_with_nan_is_read(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"round": 1, "dropped": 0, "loss": NaN}\n')
    assert read_history(tmp_path, 1) == [{"round": 1, "dropped": 0, "loss": None}]


@dataclass(frozen=True)
class Batches(Metric):
    """Is 1 for each batch, however large."""

    name: ClassVar[str] = "batches-of-a-test"

    def sums(self, outputs: Any, targets: Any, sample_weights: Any = None) -> tuple[float, float]:
        return 1.0, 1.0


@pytest.mark.parametrize(
    ("evaluation", "expected"),
    [
        ({"batch_size": 24}, []),
        ({"batch_size": 23}, ["batches-of-a-test' does not add up over batches"]),
        ({"batch_size": 12, "every": 0, "clients_every": 1}, []),
        ({"batch_size": 11, "every": 0, "clients_every": 1}, ["or raise batch_size to 12"]),
    ],
)
def test_a_metric_that_depends_on_the_batch_size_is_reported(
    scenario: dict[str, Any], evaluation: dict[str, Any], expected: list[str]
) -> None:
    """24 examples are in the test split, and 12 of the largest client; precision adds up."""
    metrics = ["batches-of-a-test", "precision-of-a-test"]
    scenario["evaluation"] = evaluation | {"metrics": metrics}
    notes = build(simfl.load_scenario(scenario)).notes
    assert len(notes) == len(expected)
    assert all(text in note for text, note in zip(expected, notes, strict=True))


class HalfNet(nn.Sequential):
    """In bfloat16, with buffers of types that numpy or arithmetic lack."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(5, 2).bfloat16())
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("phases", torch.tensor([1j, 2.0]))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = super().forward(inputs.bfloat16()).float()
        return outputs


def test_a_model_in_bfloat16_runs_resumes_and_is_written(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    """Momentum is kept from round to round, in checkpoints and, of one byte, on disk."""
    scenario["model"] = {"kind": "python", "path": f"{__name__}:HalfNet"}
    scenario["client"]["optimizer"]["modules"] = ["momentum"]
    scenario["server"] = {"optimizer": {"lrate": 0.01, "modules": ["adam"]}}
    scenario |= {"checkpoint": {"every": 1}, "cluster": {"state_memory": 1}}
    whole = simfl.run(scenario, out=tmp_path / "whole", backend="inline")
    simfl.run(scenario | {"rounds": 2}, out=tmp_path / "halves", backend="inline")
    resumed = simfl.run(scenario, out=tmp_path / "halves", backend="inline", resume="auto")
    assert resumed.summary["resumed_after_round"] == 2
    for name, array in whole.weights.items():
        assert array.tobytes() == resumed.weights[name].tobytes()
    saved = load_torch_file(tmp_path / "whole" / "weights.safetensors")
    assert saved["0.weight"].dtype == torch.bfloat16
    assert whole.weights["0.weight"].dtype == np.float32
    assert saved["0.weight"].float().tolist() == whole.weights["0.weight"].tolist()
    assert saved["mask"].tolist() == [True, False]
    assert saved["phases"].tolist() == [1j, 2.0]


def test_a_run_whose_weights_cannot_be_fetched_is_not_done(
    scenario: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def to_numpy(weights: Vector) -> dict[str, Any]:
        raise TypeError("no such type")

    monkeypatch.setattr(Vector, "to_numpy", to_numpy)
    with pytest.raises(TypeError):
        simfl.run(scenario, out=tmp_path / "out", backend="inline")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["status"] == "failed"


class Drawing(nn.Linear):
    """Projects by numbers drawn when it is built, by torch or by its own generator."""

    def __init__(self, by_torch: bool) -> None:
        super().__init__(5, 2)
        rng = np.random.default_rng()
        drawn = torch.randn(5) if by_torch else torch.from_numpy(rng.normal(size=5)).float()
        self.register_buffer("drawn", drawn, persistent=False)


def test_random_state_of_a_model_besides_weights_is_the_same_everywhere_or_refused(
    scenario: dict[str, Any],
) -> None:
    scenario["model"] = {"kind": "python", "path": f"{__name__}:Drawing"}
    scenario["model"]["arguments"] = {"by_torch": True}
    simulation = build(simfl.load_scenario(scenario))
    drawn = [simulation.client.build_model().module.drawn for _ in range(2)]
    assert torch.equal(*drawn)
    scenario["model"]["arguments"] = {"by_torch": False}
    with pytest.raises(ScenarioError, match=r"model: 'drawn' differs each time"):
        build(simfl.load_scenario(scenario))


def test_a_result_is_shown_in_one_line(scenario: dict[str, Any], tmp_path: Path) -> None:
    shown = repr(simfl.run(scenario | {"rounds": 2}, out=tmp_path / "out", backend="inline"))
    assert shown.startswith("Result(done, 2 rounds, final={'train_loss': ")
    assert len(shown.splitlines()) == 1
    assert "history" not in shown


def test_an_unknown_backend_starts_nothing(tmp_path):
    with pytest.raises(InputError, match="backend is 'inlin', but must be 'ray' or 'inline'"):
        simfl.run("quickstart", tmp_path / "run", backend="inlin")
    assert not (tmp_path / "run").exists()
