"""The papers' qualitative claims over five seeds: PASS or FAIL for each.

A claim compares two figures of runs with the same seed. It passes if it holds on average, and with
four of the five seeds.

    python benchmarks/claims.py
    python benchmarks/claims.py ditto fedrep --seeds 3

The data are digits, Synthetic(1, 1), and what ``claims_data.py`` draws.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from claims_data import optimum

import simfl
from simfl.simulation.building import build

History = Sequence[dict[str, Any]]

BASE: dict[str, Any] = {
    "rounds": 30,
    "data": {
        "source": "digits",
        "test_fraction": 0.2,
        "holdout_fraction": 0.3,
        "partition": {"kind": "shards", "clients": 20, "shards_per_client": 2},
    },
    "model": {"kind": "mlp", "hidden": [32]},
    "client": {
        "per_round": 10,
        "epochs": 3,
        "batch_size": 10,
        "stack": 8,
        "optimizer": {"lrate": 0.1},
    },
    "evaluation": {"every": 1, "clients_every": 30},
}
"""Most clients hold two of the ten classes."""

UNEQUAL: dict[str, Any] = {
    "rounds": 400,
    "data": {
        "source": "digits",
        "partition": {"kind": "shards", "clients": 20, "shards_per_client": 2},
    },
    "model": {"kind": "logistic"},
    "client": {
        "steps": ["choice", {"values": [1, 2, 5, 10], "fixed": True}],
        "stack": 32,
        "optimizer": {"lrate": 0.02, "regularizers": [["ridge", {"alpha": 0.1}]]},
    },
}
"""A client takes 1 to 10 steps on all of its examples, as many in each round."""

RIVALS: dict[str, Any] = {
    "rounds": 600,
    "data": {
        "source": "synthetic",
        "clients": 50,
        "alpha": 1.0,
        "beta": 1.0,
        "features": 20,
        "min_examples": 150,
        "max_examples": 1000,
        "size_log_std": 1.0,
        "holdout_fraction": 0.2,
    },
    "model": {"kind": "logistic"},
    "client": {"steps": 2, "stack": 64, "optimizer": {"lrate": 0.2}},
    "evaluation": {"clients_every": 600},
}
"""Synthetic(1, 1): each client has a linear model of its own, and one has to do for all. The paper
has 60 features, and thousands of rounds for them."""


@cache
def history(seed: int, algorithm: str, *changes: str) -> History:
    """Run an algorithm on label-skewed digits; return its rounds."""
    return _run(BASE | {"seed": seed}, algorithm, changes).history


@cache
def fair(seed: int, algorithm: str) -> History:
    """Run an algorithm on clients whose models differ; return its rounds."""
    return _run(RIVALS | {"seed": seed}, algorithm).history


@cache
def distances(seed: int, algorithm: str) -> tuple[float, float]:
    """Return how far an algorithm ends from two optima, in norms of the first, after unequal work.

    Returns:
        The distances from the optimum with clients weighted by examples, and from that with
        examples times steps, where by FedNova's Theorem 1 FedAvg with short steps ends.
    """
    result = _run(UNEQUAL | {"seed": seed}, algorithm)
    weights, biases = (result.weights[f"output.{name}"] for name in ("weight", "bias"))
    found = np.hstack([weights, np.asarray(biases)[:, None]])
    simulation = build(simfl.load_scenario(UNEQUAL | {"seed": seed}))
    examples, steps = simulation.num_examples, simulation.num_steps
    ends = [optimum(simulation.dataset, by, ridge=0.1) for by in (examples, examples * steps)]
    near, biased = (float(np.linalg.norm(found - end) / np.linalg.norm(ends[0])) for end in ends)
    return near, biased


@cache
def drawn_history(data: str, draw: int, seed: int, algorithm: str, *changes: str) -> History:
    """Run an algorithm on clients that a function of ``claims_data`` draws; return its rounds."""
    source = {
        "source": "python",
        "path": f"claims_data:{data}",
        "arguments": {"draw": draw},
        "holdout_fraction": 0.3,
        "partition": {"kind": "natural", "column": "client"},
    }
    search = [str(Path(__file__).parent)]
    evaluation = {"clients_every": BASE["rounds"]}
    changed = {"data": source, "search": search, "seed": seed, "evaluation": evaluation}
    return _run(BASE | changed, algorithm, changes).history


def _run(scenario: dict[str, Any], algorithm: str, changes: Sequence[str] = ()) -> simfl.Result:
    overrides = [f"algorithm={algorithm}", *changes]
    loaded = simfl.load_scenario(scenario, overrides=overrides)
    with tempfile.TemporaryDirectory() as folder:
        return simfl.run(loaded, out=Path(folder) / "run", backend="inline")


def last(key: str, of: History) -> float:
    """Return a figure of the last round."""
    return float(of[-1][key])


def rounds_to(accuracy: float, of: History) -> float:
    """Return the first round whose accuracy reaches a target; the number after the last if none."""
    reached = [row["round"] for row in of if row.get("accuracy", 0.0) >= accuracy]
    return float(min(reached, default=len(of) + 1))


@dataclass(frozen=True)
class Claim:
    """A figure that is to be larger than another."""

    name: str
    larger: str
    smaller: str
    figures: Callable[[int], tuple[float, float]]
    """Of a seed: the larger one, the smaller one."""


OWN, COMMON = "client_personal_accuracy", "client_accuracy"
SPREAD, WORST = "client_accuracy_std", "client_accuracy_worst"


def _personal(algorithm: str) -> Callable[[int], tuple[float, float]]:
    return lambda seed: (
        last(OWN, history(seed, algorithm)),
        last(COMMON, history(seed, "fedavg")),
    )


def _ifca(seed: int) -> tuple[float, float]:
    """Restart three times and choose by the training loss, as in the paper."""
    starts = [
        drawn_history("planted", seed, 10 * seed + start, "[ifca, {models: 2}]")
        for start in range(3)
    ]
    best = min(starts, key=lambda of: last("train_loss", of))
    return last(OWN, best), last(COMMON, drawn_history("planted", seed, 10 * seed, "fedavg"))


def _sooner(algorithm: str, *changes: str) -> Callable[[int], tuple[float, float]]:
    return lambda seed: (
        rounds_to(0.9, history(seed, "fedavg", *MANY)),
        rounds_to(0.9, history(seed, algorithm, *MANY, *changes)),
    )


def _fairer(key: str, *, more: float = 0.0) -> Callable[[int], tuple[float, float]]:
    """Compare q-FedAvg with FedAvg, which is its q of 0: the paper's q for these data is 1."""
    return lambda seed: (
        last(key, fair(seed, "[q-fedavg, {q: 1}]")) + more,
        last(key, fair(seed, "[q-fedavg, {q: 0}]")),
    )


def _swap(figures: Callable[[int], tuple[float, float]]) -> Callable[[int], tuple[float, float]]:
    return lambda seed: figures(seed)[::-1]


def _worst(data: str) -> Callable[[int], tuple[float, float]]:
    """Compare AFL with FedAvg, which weights domains by their examples."""
    return lambda seed: (
        last(WORST, drawn_history(data, seed, seed, "[afl, {lambda_lrate: 0.01}]", *DOMAINS)),
        last(WORST, drawn_history(data, seed, seed, "fedavg", *DOMAINS)),
    )


DOMAINS = (
    "rounds=200",
    "model={kind: logistic}",
    "client={steps: 1, batch_size: 50, optimizer: {lrate: 0.1}}",
)
MANY = (
    "rounds=120",
    "data.partition.clients=50",
    "client.epochs=5",
    "client.optimizer.lrate=0.05",
    "server.weighting=uniform",
    "evaluation.clients_every=0",
)
SCAFFOLD = (
    "client.optimizer.modules=[scaffold-client]",
    "server.optimizer.modules=[scaffold-server]",
)

CLAIMS = (
    Claim("ditto", "accuracy of own models", "of FedAvg's", _personal("ditto")),
    Claim("fedrep", "accuracy with own heads", "of FedAvg's", _personal("fedrep")),
    Claim("fedbabu", "accuracy after tuning", "of FedAvg's", _personal("fedbabu")),
    Claim("apfl", "accuracy of mixtures", "of FedAvg's", _personal("apfl")),
    Claim("fedproto", "accuracy of own models", "of FedAvg's", _personal("fedproto")),
    Claim("ifca", "accuracy with two planted clusters", "of FedAvg's", _ifca),
    Claim(
        "moon",
        "accuracy, and 0.01",
        "of FedAvg's",
        lambda seed: (
            0.01 + last("accuracy", history(seed, "[moon, {mu: 0.1}]")),
            last("accuracy", history(seed, "fedavg")),
        ),
    ),
    Claim("feddyn", "rounds of FedAvg to 0.9", "of FedDyn", _sooner("[feddyn, {alpha: 0.1}]")),
    Claim("scaffold", "rounds of FedAvg to 0.9", "of SCAFFOLD", _sooner("fedavg", *SCAFFOLD)),
    Claim(
        "fednova",
        "distance of FedAvg from the optimum",
        "of FedNova",
        lambda seed: (distances(seed, "fedavg")[0], distances(seed, "fednova")[0]),
    ),
    Claim(
        "fedavg-bias",
        "distance of FedAvg from the optimum",
        "from the one predicted",
        lambda seed: distances(seed, "fedavg"),
    ),
    Claim("q-fedavg", "deviation over clients of FedAvg", "of q-FedAvg", _swap(_fairer(SPREAD))),
    Claim("q-fedavg-worst", "accuracy of the worst tenth", "of FedAvg's", _fairer(WORST)),
    Claim("q-fedavg-mean", "accuracy, and 0.04", "of FedAvg's", _fairer(COMMON, more=0.04)),
    Claim("afl-classes", "accuracy of the worst class", "of FedAvg's", _worst("lookalikes")),
    Claim("afl-domains", "accuracy of the worst domain", "of FedAvg's", _worst("two_domains")),
)


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Claims; all by default.")] = None,
    seeds: Annotated[int, typer.Option(help="The number of seeds.")] = 5,
) -> None:
    """Print both figures of each claim, their ranges over the seeds, and PASS or FAIL."""
    for claim in CLAIMS:
        if names and claim.name not in names:
            continue
        pairs = [claim.figures(seed) for seed in range(seeds)]
        larger, smaller = zip(*pairs, strict=True)
        holding = sum(a > b for a, b in pairs)
        passes = statistics.mean(larger) > statistics.mean(smaller) and holding >= 0.8 * seeds
        print(
            f"{claim.name:>14}  {claim.larger} {_band(larger)}, {claim.smaller} {_band(smaller)}: "
            f"{holding} of {seeds} seeds, {'PASS' if passes else 'FAIL'}",
            flush=True,
        )


def _band(figures: Sequence[float]) -> str:
    return f"{statistics.mean(figures):.3g} ({min(figures):.3g} to {max(figures):.3g})"


if __name__ == "__main__":
    typer.run(main)
