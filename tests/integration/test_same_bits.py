"""The same scenario gives the same bits wherever it runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

import simfl
from simfl.record import RoundRecord

pytestmark = pytest.mark.ray

BASE: dict[str, Any] = {
    "rounds": 4,
    "seed": 3,
    "plugins": ["killing", "third_party"],
    "search": [str(Path(__file__).parent)],
    "data": {
        "source": "digits",
        "test_fraction": 0.2,
        "holdout_fraction": 0.2,
        "partition": {"kind": "dirichlet", "clients": 12, "alpha": 0.5},
    },
    "model": {"kind": "mlp", "hidden": [16], "dropout": 0.2},
    "client": {"per_round": 7, "batch_size": 16, "optimizer": {"lrate": 0.1}},
    "evaluation": {"clients_every": 2},
}

ALGORITHMS: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "scaffold": {
        "client": {"optimizer": {"lrate": 0.1, "modules": ["scaffold-client"]}},
        "server": {"optimizer": {"modules": ["scaffold-server"]}},
    },
    "kept momentum, noise, prox, a schedule": {
        "client": {
            "sclip": 1.0,
            "optimizer": {
                "lrate": ["exponential", {"base": 0.1, "factor": 0.9, "unit": "step"}],
                "w_decay": 0.001,
                "regularizers": [["fedprox", {"alpha": 0.1}]],
                "modules": [["gaussian-noise", {"std": 0.01}], "momentum"],
            },
        }
    },
    "a module that keeps its state now and then, and clients that are dropped": {
        "rounds": 5,
        "client": {
            "stack": 1,
            "on_failure": "drop",
            "on_nonfinite": "drop",
            "optimizer": {
                "modules": [["keeping", {"failing": [0, 3, 7], "diverging": [1, 5]}]],
            },
        },
        "cluster": {"state_memory": 1},
        "checkpoint": {"every": 1},
    },
    "median, metrics that are no means, and the best weights": {
        "server": {"aggregator": "median"},
        "evaluation": {"metrics": ["f1", "auc", "confusion"]},
        "output": {"best": "client_f1_by_examples"},
    },
    "own models on disk, tuned, and clients that never train": {
        "algorithm": "owning",
        "client": {"stack": 2, "optimizer": {"modules": ["momentum"]}},
        "evaluation": {"personal_steps": 2, "new_clients": {"ids": [1, 5]}},
        "cluster": {"state_memory": 1},
    },
    "an aggregator with a state, and clients in turn": {
        "client": {"sampler": "round-robin", "stack": 2},
        "server": {"aggregator": ["centered-clipping", {"radius": 0.05}]},
    },
    "a personal head on disk, with which clients are asked for losses, in stacks with scaffold": {
        "model": {"personal": ["output"]},
        "client": {
            "stack": 2,
            "sampler": ["power-of-choice", {"candidates": 9, "loss": "current"}],
            "optimizer": {"lrate": 0.1, "modules": ["scaffold-client", "momentum"]},
        },
        "server": {"optimizer": {"modules": ["scaffold-server"]}},
        "cluster": {"state_memory": 1},
    },
    "stacks with scaffold, and top-k whose residuals are on disk": {
        "client": {
            "stack": 2,
            "optimizer": {"lrate": 0.1, "modules": ["scaffold-client"]},
            "transforms": ["clip", ["top-k", {"fraction": 0.1}]],
        },
        "server": {"optimizer": {"modules": ["scaffold-server"]}},
        "cluster": {"state_memory": 1},
    },
    "a module in bfloat16 that holds more than its weights, and momentum": {
        "model": {"kind": "python", "path": "third_party:Leaky", "hidden": None, "dropout": None},
        "client": {"optimizer": {"modules": ["momentum"]}},
    },
    "stacks with scaffold, and stragglers by a schedule of steps": {
        "client": {
            "stack": 2,
            "per_round": 0.6,
            "epochs": ["stragglers", {"share": 0.5, "low": 1, "high": 4}],
            "optimizer": {
                "lrate": ["exponential", {"base": 0.1, "factor": 0.95, "unit": "step"}],
                "modules": ["scaffold-client"],
            },
        },
        "server": {"optimizer": {"modules": ["scaffold-server"]}, "weighting": "steps"},
    },
    "stacks with momentum, and stragglers that are dropped": {
        "client": {
            "stack": 2,
            "steps": ["stragglers", {"share": 0.5, "full": 5, "drop": True}],
            "optimizer": {"lrate": 0.1, "modules": ["momentum"]},
        },
    },
    "stacks in bfloat16": {"client": {"stack": 2, "precision": "bf16"}},
    "stacks with a third-party module with a state": {
        "client": {"stack": 4, "optimizer": {"modules": ["fading"]}},
    },
}

RARER = (
    "scaffold",
    "stacks with momentum, and stragglers that are dropped",
    "kept momentum, noise, prox, a schedule",
    "an aggregator with a state, and clients in turn",
    "stacks with scaffold, and stragglers by a schedule of steps",
    "a module that keeps its state now and then, and clients that are dropped",
    "a module in bfloat16 that holds more than its weights, and momentum",
    "stacks in bfloat16",
    "stacks with a third-party module with a state",
)
"""What other cases cover in part: these take long, and are run with the slow tests."""


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in changes.items():
        out[key] = merged(out.get(key, {}), value) if isinstance(value, dict) else value
    return {key: value for key, value in out.items() if value is not None}


def bits(scenario: dict[str, Any], out: Path, backend: str) -> tuple[Any, ...]:
    """Return all that must not differ: every number but the seconds."""
    return numbers(simfl.run(scenario, out=out, backend=backend))  # type: ignore[arg-type]


def numbers(result: simfl.Result) -> tuple[Any, ...]:
    weights = {name: array.tobytes() for name, array in result.weights.items()}
    best = result.out / "best.safetensors"
    if best.exists():
        weights |= {f"best {name}": array.tobytes() for name, array in load_file(best).items()}
    return weights, [RoundRecord.parse(record).reproducible for record in result.history]


@pytest.mark.parametrize(
    "algorithm",
    [pytest.param(name, marks=[pytest.mark.slow] if name in RARER else []) for name in ALGORITHMS],
)
def test_ray_gives_the_bits_of_one_process_and_so_does_a_run_that_was_stopped(
    algorithm: str, tmp_path: Path, ray_cluster: None
) -> None:
    """On Ray one of two actors is killed in round 2; in one process the run stops after round 3,
    and goes on from the checkpoint of round 2."""
    scenario = merged(BASE, ALGORITHMS[algorithm])
    expected = bits(scenario, tmp_path / "inline", "inline")
    killed = with_a_kill(merged(scenario, {"cluster": {"actors": 2}}), tmp_path)
    assert bits(killed, tmp_path / "ray", "ray") == expected
    assert list(tmp_path.glob("*-2-0")), "no process was killed"
    halves = merged(scenario, {"checkpoint": {"every": 2}})
    simfl.run(merged(halves, {"rounds": 3}), out=tmp_path / "halves", backend="inline")
    result = simfl.run(halves, out=tmp_path / "halves", backend="inline", resume="auto")
    assert result.summary["resumed_after_round"] == 2
    assert numbers(result) == expected


def with_a_kill(scenario: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Have an actor die at the second step of a client of round 2, on which no number depends.

    Args:
        scenario: that of the undisturbed run in ``inline``, whose table names the client.
        folder: where that is, and where deaths are noted.
    """
    table = pq.read_table(folder / "inline" / "clients.parquet").to_pydict()
    cohort = [c for c, round in zip(table["client"], table["round"], strict=True) if round == 2]
    client = cohort[3]
    kill = ["kill-at", {"folder": str(folder), "client": client, "round": 2}]
    modules = scenario["client"]["optimizer"].get("modules", [])
    return merged(scenario, {"client": {"optimizer": {"modules": [*modules, kill]}}})


@pytest.mark.slow
def test_an_actor_that_dies_while_it_tunes_a_client_changes_nothing(
    tmp_path: Path, ray_cluster: None
) -> None:
    """Client 1 never trains: its step in the round after the second is the evaluation's."""
    scenario = merged(BASE, ALGORITHMS["own models on disk, tuned, and clients that never train"])
    expected = bits(scenario, tmp_path / "inline", "inline")
    kill = ["kill-at", {"folder": str(tmp_path), "client": 1, "round": 3, "step": 2}]
    killed = {"optimizer": {"modules": ["momentum", kill]}}
    ray = merged(scenario, {"cluster": {"actors": 2}, "client": killed})
    assert bits(ray, tmp_path / "ray", "ray") == expected
    assert list(tmp_path.glob("1-3-0")), "no process was killed"
    assert expected[1][-1]["client_personal_loss"] != expected[1][-1]["client_loss"]


@pytest.mark.parametrize(
    "cluster",
    [
        {"actors": 1},
        pytest.param({"actors": 5}, marks=pytest.mark.slow),
        {"actors": 3, "chunk_size": 1},
        pytest.param({"actors": 2, "chunk_size": 5}, marks=pytest.mark.slow),
    ],
)
def test_actors_chunks_and_placement_change_nothing(
    cluster: dict[str, Any], tmp_path: Path, ray_cluster: None
) -> None:
    scenario = merged(BASE, ALGORITHMS["scaffold"])
    expected = bits(scenario, tmp_path / "inline", "inline")
    placed = merged(scenario, {"cluster": cluster})
    assert bits(placed, tmp_path / "ray", "ray") == expected


def test_an_actor_for_each_client_changes_nothing(tmp_path: Path, ray_cluster: None) -> None:
    few = {"data": {"partition": {"clients": 3}}, "client": {"per_round": 2}}
    scenario = merged(merged(BASE, ALGORITHMS["scaffold"]), few)
    expected = bits(scenario, tmp_path / "inline", "inline")
    dedicated = merged(scenario, {"cluster": {"placement": "dedicated", "num_cpus": 0.5}})
    assert bits(dedicated, tmp_path / "ray", "ray") == expected


@pytest.mark.slow
def test_rounds_without_clients_are_rounds_wherever_they_run(
    tmp_path: Path, ray_cluster: None
) -> None:
    """Of 5 clients each takes part with probability 0.2: by the seed, none does in some rounds."""
    few = {"data": {"partition": {"clients": 5}}, "client": {"per_round": 1, "sampler": "poisson"}}
    scenario = merged(merged(BASE, ALGORITHMS["scaffold"]), few | {"rounds": 6})
    expected = bits(scenario, tmp_path / "inline", "inline")
    clients = [record["clients"] for record in expected[1]]
    assert 0 in clients
    assert max(clients) > 0
    dedicated = merged(scenario, {"cluster": {"placement": "dedicated", "num_cpus": 0.5}})
    assert bits(dedicated, tmp_path / "ray", "ray") == expected


@pytest.mark.slow
@pytest.mark.parametrize("baseline", ["centralized", "local"])
def test_baselines_give_the_same_bits_on_ray(
    baseline: Any, tmp_path: Path, ray_cluster: None
) -> None:
    scenario = merged(BASE, {"rounds": 2, "cluster": {"actors": 2}})
    inline, ray = (
        simfl.run(scenario, out=tmp_path / backend, backend=backend, baseline=baseline)
        for backend in ("inline", "ray")
    )
    assert numbers(ray) == numbers(inline)
    key = "loss" if baseline == "centralized" else "client_personal_loss"
    assert ray.history[-1][key] < 2.3, "the loss of chance, ln 10"


@pytest.mark.slow
def test_a_run_in_one_process_is_verified_on_ray(tmp_path: Path, ray_cluster: None) -> None:
    scenario = merged(BASE, ALGORITHMS["scaffold"])
    scenario = merged(scenario, {"rounds": 2, "checkpoint": {"every": 1}})
    simfl.run(scenario, out=tmp_path / "out", backend="inline")
    found = simfl.verify(tmp_path / "out", backend="ray")
    assert str(found) == (
        "the same bits in 2 rounds, the checkpoints of rounds 1, 2 and the final weights"
    )


def test_another_seed_gives_other_numbers(tmp_path: Path) -> None:
    one = bits(BASE, tmp_path / "a", "inline")
    other = bits(merged(BASE, {"seed": 4}), tmp_path / "b", "inline")
    assert one != other


SCRIPT = """
import sys, threading
from dataclasses import dataclass
from typing import ClassVar

import torch

import simfl
from simfl.models import Loss, Metric


def net(width):
    torch.manual_seed(0)
    hidden = torch.nn.Linear(64, width)
    layers = torch.nn.Flatten(), hidden, torch.nn.ReLU(), torch.nn.Linear(width, 10)
    return torch.nn.Sequential(*layers)


@dataclass(frozen=True)
class Half(Metric):
    name: ClassVar[str] = "half"

    def per_example(self, outputs, targets):
        return (outputs.argmax(dim=1) == targets).float() / 2


@dataclass(frozen=True)
class Own(Loss):
    name: ClassVar[str] = "own"
    default_metrics: ClassVar[tuple[str, ...]] = ("half",)

    def per_example(self, outputs, targets):
        return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")


SCENARIO = {
    "rounds": 1,
    "data": {"source": "digits", "test_fraction": 0.2, "partition": {"kind": "iid", "clients": 4}},
    "model": {"kind": "python", "path": "__main__:net", "arguments": {"width": 8}, "loss": "own"},
    "client": {"batch_size": 32, "optimizer": {"lrate": 0.1}},
    "cluster": {"actors": 1},
}


def run():
    lasts = [
        simfl.run(SCENARIO, out=f"{sys.argv[1]}/{backend}", backend=backend).history[-1]
        for backend in ("inline", "ray")
    ]
    found = [(last["train_loss"], last["half"]) for last in lasts]
    print(found[0] == found[1], found[0][1] > 0)


if __name__ == "__main__":
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
"""


@pytest.mark.slow
def test_what_a_script_or_a_notebook_defines_itself_runs_on_ray_and_in_a_thread(
    tmp_path: Path,
) -> None:
    """A model's function, a loss, and the metric that the loss names."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.splitlines()[-1:] == ["True True"], done.stderr
