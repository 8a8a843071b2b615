"""Loops of one's own: those that do what a run does give its bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import simfl
from simfl.errors import InputError, RunError
from simfl.record import RoundRecord
from simfl.vector import Vector

SCENARIO: dict[str, Any] = {
    "rounds": 3,
    "seed": 5,
    "data": {
        "source": "synthetic",
        "clients": 10,
        "features": 6,
        "classes": 3,
        "min_examples": 12,
        "size_log_mean": 1.5,
        "size_log_std": 0.5,
        "test_fraction": 0.2,
    },
    "model": {"kind": "mlp", "hidden": [5]},
    "client": {"per_round": 5, "batch_size": 8, "optimizer": {"lrate": 0.1}},
    "evaluation": {"clients_every": 2, "metrics": ["accuracy", "confusion"]},
}
SCAFFOLD = {"client": {"optimizer": {"modules": ["scaffold-client"]}}}


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    both = {**base, **changes}
    nested = [key for key in base if isinstance(changes.get(key), dict)]
    return both | {key: merged(base[key], changes[key]) for key in nested}


def loop(scenario: dict[str, Any], out: Path, **how: Any) -> simfl.Result:
    """Do what a run does, with the scenario's own server."""
    with simfl.federation(scenario, "inline", out=out, **how) as fed:
        start, weights, _ = fed.restore()
        assert next(fed.rounds) == start + 1
        for round in fed.rounds:
            total = fed.train(weights, fed.sample(round, weights), round=round)
            weights = fed.step(weights, total)
            fed.log(round, **fed.evaluate(weights, clients=round % 2 == 0 or round == 3))
            fed.save(round, weights)
    return fed.result


def numbers(result: simfl.Result) -> tuple[Any, ...]:
    weights = {name: array.tobytes() for name, array in result.weights.items()}
    return weights, [RoundRecord.parse(line).reproducible for line in result.history]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"server": {"optimizer": {"modules": ["adam"]}}}, id="fedadam"),
        pytest.param(
            SCAFFOLD | {"server": {"optimizer": {"modules": ["scaffold-server"]}}}, id="scaffold"
        ),
        pytest.param(
            {"algorithm": "feddyn", "client": {"per_round": 3}}, id="a state on both sides"
        ),
        pytest.param(
            {
                "client": {
                    "stack": 2,
                    "steps": ["stragglers", {"share": 0.5, "full": 4, "drop": True}],
                }
            },
            id="stacks, of which half are dropped",
        ),
        pytest.param(
            {
                "model": {"personal": ["output"]},
                "client": {"sampler": ["power-of-choice", {"candidates": 7, "loss": "current"}]},
                "server": {"aggregator": ["centered-clipping", {"radius": 0.1}]},
                "cluster": {
                    "state_memory": 1,
                    "groups": [
                        {"name": "a", "clients": {"fraction": 0.4}, "stack": 2},
                        {"name": "b", "stack": 1},
                    ],
                },
            },
            id="personal weights on disk, groups, a sampler that asks, an aggregator with a state",
        ),
        pytest.param({"client": {"per_round": 1, "sampler": "poisson"}, "seed": 2}, id="poisson"),
    ],
)
def test_a_loop_with_the_scenarios_server_is_its_run(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    """Weights, metrics, counts and bytes; also of a loop that stopped after round 2."""
    scenario = merged(SCENARIO, changes)
    expected = numbers(simfl.run(scenario, out=tmp_path / "run", backend="inline"))
    assert numbers(loop(scenario, tmp_path / "whole")) == expected
    loop({**scenario, "rounds": 2}, tmp_path / "halves")
    ended = loop(scenario, tmp_path / "halves", resume="auto")
    assert ended.summary["resumed_after_round"] == 2
    assert numbers(ended) == expected


def by_hand(scenario: dict[str, Any], out: Path, server: Any) -> simfl.Result:
    """Train with a server of one's own: (fed, round, weights) -> weights."""
    with simfl.federation(scenario, "inline", out=out) as fed:
        weights = fed.initial_weights()
        for round in fed.rounds:
            weights = server(fed, round, weights)
            fed.log(round, **fed.evaluate(weights, clients=round % 2 == 0 or round == 3))
    return fed.result


def test_subtracting_the_mean_is_fedavg(tmp_path: Path) -> None:
    def server(fed: Any, round: int, weights: Vector) -> Vector:
        return weights - fed.train(weights, fed.sample(round), round=round).mean

    expected = numbers(simfl.run(SCENARIO, out=tmp_path / "run", backend="inline"))
    assert numbers(by_hand(SCENARIO, tmp_path / "loop", server)) == expected


def test_scaffold_with_the_servers_variate_in_the_loop_is_that_of_a_run(tmp_path: Path) -> None:
    """The algorithm's server half in two lines: c += sum of the changes / N."""
    scenario = SCENARIO | {"algorithm": "scaffold", "server": {"weighting": "uniform"}}
    state: dict[str, Any] = {}

    def server(fed: Any, round: int, weights: Vector) -> Vector:
        c = state.get("c", weights.zeros_like())
        total = fed.train(weights, fed.sample(round), round=round, received={"c": c})
        state["c"] = c + total.sums["c"] / len(fed.clients)
        return weights - total.mean

    expected = numbers(simfl.run(scenario, out=tmp_path / "run", backend="inline"))
    assert numbers(by_hand(scenario, tmp_path / "loop", server)) == expected


def test_variables_of_modules_are_sent_and_summed(tmp_path: Path) -> None:
    """SCAFFOLD by modules, with its server's module in the loop."""
    server_side = {"server": {"optimizer": {"modules": ["scaffold-server"]}}}
    scenario = merged(SCENARIO, SCAFFOLD | server_side)
    sums: list[Vector] = []

    def server(fed: Any, round: int, weights: Vector) -> Vector:
        aux = {"scaffold": {"state": sums[0] / len(fed.clients)}} if sums else {}
        total = fed.train(weights, fed.sample(round), round=round, aux=aux)
        change = total.aux["scaffold"]["delta"]
        sums[:] = [sums[0] + change if sums else change]
        return weights - total.mean

    expected = numbers(simfl.run(scenario, out=tmp_path / "run", backend="inline"))[0]
    assert numbers(by_hand(scenario, tmp_path / "loop", server))[0] == expected


def test_fedadam_by_torch_is_that_of_a_run(tmp_path: Path) -> None:
    """torch.optim.Adam takes the mean for a gradient; it adds up in another order than simfl."""
    modules = [["adam", {"beta_2": 0.99, "eps": 0.001}]]
    scenario = SCENARIO | {"server": {"optimizer": {"lrate": 0.01, "modules": modules}}}
    made: dict[str, Any] = {}

    def server(fed: Any, round: int, weights: Vector) -> Vector:
        if not made:
            made["weights"] = [tensor.clone() for tensor in weights.tensors]
            made["adam"] = torch.optim.Adam(made["weights"], lr=0.01, betas=(0.9, 0.99), eps=0.001)
        mean = fed.train(weights, fed.sample(round), round=round).mean
        for weight, gradient in zip(made["weights"], mean.tensors, strict=True):
            weight.grad = gradient
        made["adam"].step()
        return Vector(dict(zip(weights.names, made["weights"], strict=True))).clone()

    ended = simfl.run(scenario, out=tmp_path / "run", backend="inline").weights
    own = by_hand(SCENARIO, tmp_path / "loop", server).weights
    for name, array in ended.items():
        np.testing.assert_allclose(own[name], array, rtol=0, atol=1e-6)


@pytest.mark.parametrize("stack", [1, 4])
def test_each_delta_is_what_the_mean_is_made_of(stack: int, tmp_path: Path) -> None:
    """And dropped clients are left out; states are kept as after train."""
    changes = {"stack": stack, "optimizer": {"modules": ["momentum"]}, "epochs": 2}
    scenario = merged(SCENARIO, {"client": changes})
    totals, each = [], []
    for name in ("one", "two"):
        with simfl.federation(scenario, "inline", out=tmp_path / name) as fed:
            weights = fed.initial_weights()
            for round in (1, 2):  # of the same clients, whose momentum is kept
                if name == "one":
                    totals.append(fed.train(weights, (4, 0, 7), round=round))
                else:
                    each.append(fed.train_each(weights, (4, 0, 7), round=round))
                fed.log(round)
    for total, updates in zip(totals, each, strict=True):
        assert [update.client for update in updates] == total.clients.client.tolist()
        assert sum(update.weight for update in updates) == total.weight
        for name, mean in total.mean.items():
            parts = [update.delta[name].double() * update.weight for update in updates]
            torch.testing.assert_close(
                mean.double(), sum(parts) / total.weight, rtol=1e-5, atol=1e-7
            )
    assert totals[0].mean != totals[1].mean


def test_running_statistics_are_no_gradient(tmp_path: Path) -> None:
    """Half a step of the weights, and a whole one of the statistics.

    Counts are whole numbers where they are sent, but not in between, as in a run.
    """
    scenario = SCENARIO | {"model": {"kind": "python", "path": f"{__name__}:normed"}}
    scenario = merged(scenario, {"client": {"drop_last": True}})

    def server(fed: Any, round: int, weights: Vector) -> Vector:
        total = fed.train(weights, fed.sample(round), round=round)
        assert set(total.buffers) == {"0.running_mean", "0.running_var", "0.num_batches_tracked"}
        return weights - (total.mean * 0.5 | total.buffers)

    half = {**scenario, "server": {"optimizer": {"lrate": 0.5}}}
    expected = numbers(simfl.run(half, out=tmp_path / "run", backend="inline"))[0]
    ended = by_hand(scenario, tmp_path / "loop", server)
    count = "0.num_batches_tracked"
    assert {**numbers(ended)[0], count: expected[count]} == expected
    assert ended.weights[count].dtype == np.int64


def normed() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 3))


def test_what_is_saved_is_restored(tmp_path: Path) -> None:
    """Also what the scenario itself would not have measured after these rounds."""
    scenario = SCENARIO | {"evaluation": {"every": 3}}
    saved = {"velocity": Vector({"a": torch.ones(2)}), "best": 0.5, "rounds": [1, 2]}
    with simfl.federation(scenario, "inline", out=tmp_path / "out") as fed:
        assert fed.restore() == (0, fed.initial_weights(), {})
        weights = fed.initial_weights() * 2.0
        for round in (1, 2):
            fed.log(round, accuracy=0.5)
            fed.save(round, weights, **saved)
    with simfl.federation(scenario, "inline", out=tmp_path / "out", resume="auto") as fed:
        assert fed.restore() == (2, weights, saved)
        assert list(fed.rounds) == [3]
    assert [line["accuracy"] for line in fed.result.history] == [0.5, 0.5]
    with pytest.raises(InputError, match=r"holds a loop of its author's.*simfl\.federation"):
        simfl.resume(tmp_path / "out", backend="inline")
    simfl.run(SCENARIO, out=tmp_path / "run", backend="inline")
    with (
        pytest.raises(InputError, match="holds a run; continue it with simfl resume"),
        simfl.federation(scenario, "inline", out=tmp_path / "run", resume="auto"),
    ):
        pass


def test_what_cannot_be_done_is_refused_in_one_line(tmp_path: Path) -> None:
    with simfl.federation(SCENARIO, "inline", out=tmp_path / "a") as fed:
        weights = fed.initial_weights()
        for message, call in {
            "client 3 is given twice": lambda: fed.train(weights, [3, 1, 3], round=1),
            "client 77 is none of": lambda: fed.train(weights, [77], round=1),
            "clients are float64": lambda: fed.train(weights, [0.5], round=1),
            "round is 0, and the first is 1": lambda: fed.train(weights, [1], round=0),
            "'output.bias' has shape None": lambda: fed.evaluate(weights.without(["output.bias"])),
            "round is 2, but the last logged one is 0; give 1": lambda: fed.log(2),
            "round is '1', but": lambda: fed.log("1"),  # type: ignore[arg-type]
            "save: round is 1, but the last logged one is 0; call log": lambda: fed.save(
                1, weights
            ),
            "sample: round is 0; give a whole number": lambda: fed.sample(0),
            "sample: round is 'a'": lambda: fed.sample("a"),  # type: ignore[arg-type]
            "weights: is NoneType, but must": lambda: fed.evaluate(None),  # type: ignore[arg-type]
            "'f2' is int": lambda: fed.log(1, f2=10**400),
            "'f3' is str": lambda: fed.log(1, f3=[[1], ["high"]]),
            "result: there is none before": lambda: fed.result,
            "'steps' is a field of the records": lambda: fed.log(1, steps=3.0),
            "'f1' is str": lambda: fed.log(1, f1="high"),
        }.items():
            with pytest.raises(InputError, match=message) as caught:
                call()
            assert "\n" not in str(caught.value)
        idle = fed.train(weights, (), round=1)
        assert not any(idle.mean.norms().values())
        assert np.isnan(idle.loss)
    asks = ["power-of-choice", {"candidates": 7, "loss": "current"}]
    asking = merged(SCENARIO, {"client": {"sampler": asks}})
    with (
        pytest.raises(InputError, match=r"'power-of-choice' asks.*sample\(1, weights\)"),
        simfl.federation(asking, "inline", out=tmp_path / "b") as fed,
    ):
        fed.sample(1)


def test_a_cohort_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    scenario = merged(SCENARIO, {"client": {"optimizer": {"lrate": 1e30}}})
    with simfl.federation(scenario, "inline", out=tmp_path / "a") as fed:
        weights = fed.initial_weights()
        with pytest.raises(RunError, match="client"):
            fed.train(weights, (0, 1), round=1)
        with pytest.raises(RunError, match="an earlier call has failed; open the federation again"):
            fed.train(weights, (0, 1), round=1)
    drops = merged(scenario, {"client": {"on_nonfinite": "drop"}})
    with simfl.federation(drops, "inline", out=tmp_path / "b") as fed:
        with pytest.raises(RunError, match="every one of the 2 clients"):
            fed.train(weights, (0, 1), round=1)
        with pytest.raises(RunError, match="every one of the 3 clients"):
            fed.train(weights, (0, 1, 2), round=1)
        assert fed.train(weights, (), round=2).report.num_clients == 0


JUDGED: dict[str, Any] = {
    **SCENARIO,
    "rounds": 12,
    "client": {"per_round": 3, "batch_size": 4, "optimizer": {"lrate": 0.5}},
    "evaluation": {},
    "checkpoint": {"every": 1},
    "output": {"best": "accuracy"},
    "stop": {"patience": 3},
}


def judged_loop(out: Path, *, killed: int | None = None) -> simfl.Result:
    with simfl.federation(JUDGED, "inline", out=out, resume="auto") as fed:
        weights = fed.restore().weights
        for round in fed.rounds:
            weights = fed.step(weights, fed.train(weights, fed.sample(round), round=round))
            fed.log(round, **fed.evaluate(weights))
            if round == killed:
                raise KeyboardInterrupt
            fed.save(round, weights)
    return fed.result


def test_a_loop_ends_early_and_keeps_the_best_weights_as_its_run_does(tmp_path: Path) -> None:
    """Also one that was interrupted twice, between a record and its checkpoint."""
    expected = simfl.run(JUDGED, out=tmp_path / "run", backend="inline")
    assert expected.summary["best"]["round"] < len(expected.history) < JUDGED["rounds"]
    for killed in ((), (2, len(expected.history))):
        out = tmp_path / f"loop{len(killed)}"
        for round in killed:
            with pytest.raises(KeyboardInterrupt):
                judged_loop(out, killed=round)
        result = judged_loop(out)
        assert numbers(result) == numbers(expected)
        for key in ("status", "best", "stopped_early"):
            assert result.summary[key] == expected.summary[key]
        for name in ("best.safetensors", "weights.safetensors"):
            assert (out / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
        kept = [sorted(p.name for p in (f / "best").iterdir()) for f in (out, expected.out)]
        assert kept[0] == kept[1]


def test_the_best_weights_of_a_loop_must_be_known(tmp_path: Path) -> None:
    judged = JUDGED | {"output": {"best": "train_loss"}, "stop": None}
    with simfl.federation(judged, "inline", out=tmp_path / "a") as fed:
        weights = fed.initial_weights()
        total = fed.train(weights, fed.sample(1), round=1)
        fed.log(1, weights=weights - total.mean)
        weights = weights - total.mean
        fed.train(weights, fed.sample(2), round=2)
        fed.log(2, train_loss=9.0)  # worse
        fed.train(weights, fed.sample(3), round=3)
        with pytest.raises(InputError, match=r"round 3 is the best .* call log\(3, weights=...\)"):
            fed.log(3, train_loss=0.0)
    expected = simfl.run({**judged, "rounds": 1}, out=tmp_path / "run", backend="inline")
    found = (tmp_path / "run" / "weights.safetensors").read_bytes()
    assert (tmp_path / "run" / "best.safetensors").read_bytes() == found
    assert expected.summary["best"]["round"] == 1
