"""The papers' qualitative claims, on digits, over five seeds: PASS or FAIL for each.

A claim compares two figures of runs with the same seed. It passes if it holds on average, and with
four of the five seeds.

    python benchmarks/claims.py
    python benchmarks/claims.py ditto fedrep --seeds 3
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
from sklearn.datasets import load_digits

import simfl
from simfl.data import Examples, SourceData

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


def planted(draw: int, clients: int = 20) -> SourceData:
    """Return digits in random order; half of the clients call class y by 9 - y."""
    inputs, targets = load_digits(return_X_y=True)
    order = np.random.default_rng(draw).permutation(len(inputs))
    owner = np.arange(len(inputs)) % clients
    targets = np.where(owner % 2 == 0, targets[order], 9 - targets[order])
    return SourceData(
        Examples((inputs[order] / 16).astype(np.float32), targets), columns={"client": owner}
    )


History = tuple[dict[str, Any], ...]


@cache
def history(seed: int, algorithm: str, *changes: str) -> History:
    """Run an algorithm on label-skewed digits; return its rounds."""
    return _run(BASE | {"seed": seed}, algorithm, changes)


@cache
def planted_history(draw: int, seed: int, algorithm: str) -> History:
    """Run an algorithm on two clusters of clients, which name the classes in opposite orders."""
    data = {
        "source": "python",
        "path": "claims:planted",
        "arguments": {"draw": draw},
        "holdout_fraction": 0.3,
        "partition": {"kind": "natural", "column": "client"},
    }
    search = [str(Path(__file__).parent)]
    evaluation = {"clients_every": BASE["rounds"]}
    changed = {"data": data, "search": search, "seed": seed, "evaluation": evaluation}
    return _run(BASE | changed, algorithm, ())


def _run(scenario: dict[str, Any], algorithm: str, changes: Sequence[str]) -> History:
    overrides = [f"algorithm={algorithm}", *changes]
    loaded = simfl.load_scenario(scenario, overrides=overrides)
    with tempfile.TemporaryDirectory() as folder:
        return tuple(simfl.run(loaded, out=Path(folder) / "run", backend="inline").history)


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


def _personal(algorithm: str) -> Callable[[int], tuple[float, float]]:
    return lambda seed: (
        last(OWN, history(seed, algorithm)),
        last(COMMON, history(seed, "fedavg")),
    )


def _ifca(seed: int) -> tuple[float, float]:
    """Restart three times and choose by the training loss, as in the paper."""
    starts = [planted_history(seed, 10 * seed + start, "[ifca, {models: 2}]") for start in range(3)]
    best = min(starts, key=lambda of: last("train_loss", of))
    return last(OWN, best), last(COMMON, planted_history(seed, 10 * seed, "fedavg"))


def _sooner(algorithm: str, *changes: str) -> Callable[[int], tuple[float, float]]:
    return lambda seed: (
        rounds_to(0.9, history(seed, "fedavg", *MANY)),
        rounds_to(0.9, history(seed, algorithm, *MANY, *changes)),
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
            f"{claim.name:>9}  {claim.larger} {_band(larger)}, {claim.smaller} {_band(smaller)}: "
            f"{holding} of {seeds} seeds, {'PASS' if passes else 'FAIL'}",
            flush=True,
        )


def _band(figures: Sequence[float]) -> str:
    return f"{statistics.mean(figures):.3g} ({min(figures):.3g} to {max(figures):.3g})"


if __name__ == "__main__":
    typer.run(main)
