"""SCAFFOLD (Karimireddy et al., 2020, https://arxiv.org/abs/1910.06378): Table 3.

python experiments/scaffold/run.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from common import Claim, Experiment, lines, main  # noqa: E402

TARGET = 0.9
ROUNDS = 60
OVER = (
    "{data.partition.similarity: [0.0, 0.1, 1.0], client.epochs: %s, "
    "client.optimizer.lrate: %s, seed: 0..4}"
)
CELL = ["similarity", "epochs", "label"]


def measure(rounds: pd.DataFrame) -> dict[str, float]:
    """Return the round in which the target was reached; the number after the last if it was not."""
    reached = rounds["round"][rounds["accuracy"] >= TARGET]
    return {"rounds": reached.min() if len(reached) else ROUNDS + 1}


def best_step_size(results: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with the step size that takes the fewest rounds on average, as in the paper.

    It is chosen for each method, similarity and number of epochs. SGD's one step is no epoch.
    """
    means = results.groupby([*CELL, "lrate"], as_index=False)["rounds"].mean()
    best = means.loc[means.groupby(CELL)["rounds"].idxmin(), [*CELL, "lrate"]]
    return results.merge(best).drop(columns="data").sort_values([*CELL, "seed"])


def runs(label: str, similarity: float | None = None, epochs: str = "") -> str:
    """Return the query of a method's runs."""
    parts = [f"label == '{label}'"]
    parts += [] if similarity is None else [f"similarity == {similarity}"]
    return " and ".join([*parts, *([epochs] if epochs else [])])


CLAIMS = [
    Claim(
        "Table 3",
        f"SCAFFOLD takes fewer rounds than {other} (similarity {similarity:.0%})",
        "rounds",
        runs(other, similarity),
        runs("SCAFFOLD", similarity),
    )
    for other in ("SGD", "FedAvg", "FedProx")
    for similarity in (0.0, 0.1, 1.0)
] + [
    Claim(
        "Table 3",
        "at 0 % similarity, FedAvg takes more rounds with 20 epochs than with 1",
        "rounds",
        runs("FedAvg", 0.0, "epochs == 20"),
        runs("FedAvg", 0.0, "epochs == 1"),
    ),
    Claim(
        "Table 3",
        "at 10 % similarity, SCAFFOLD takes fewer rounds with 20 epochs than with 1",
        "rounds",
        runs("SCAFFOLD", 0.1, "epochs == 1"),
        runs("SCAFFOLD", 0.1, "epochs == 20"),
    ),
    Claim(
        "Table 3",
        "SCAFFOLD takes fewer rounds at 10 % similarity than at 0 %",
        "rounds",
        runs("SCAFFOLD", 0.0),
        runs("SCAFFOLD", 0.1),
    ),
    Claim(
        "Table 3",
        "SCAFFOLD takes fewer rounds at 100 % similarity than at 10 %",
        "rounds",
        runs("SCAFFOLD", 0.1),
        runs("SCAFFOLD", 1.0),
    ),
    Claim(
        "section 7",
        "at 0 % similarity, FedAvg takes more rounds than SGD",
        "rounds",
        runs("FedAvg", 0.0),
        runs("SGD", 0.0),
    ),
    Claim(
        "Table 3",
        "FedProx takes more rounds than FedAvg",
        "rounds",
        runs("FedProx"),
        runs("FedAvg"),
    ),
]

EXPERIMENT = Experiment(
    folder=HERE,
    variants={
        "SGD": [
            "sweep.cases={SGD: {client.batch_size: 15}}",
            f"sweep.over={OVER % ('[1]', '[0.3, 1.0, 3.0]')}",
        ],
        # FedProx with mu = 1 cannot take this step: w - w_t would change its sign and grow.
        "large": [
            "sweep.cases={FedAvg: {}, SCAFFOLD: {client.optimizer.modules: [scaffold-client], "
            "server.optimizer.modules: [scaffold-server]}}",
            f"sweep.over={OVER % ('[1, 5, 20]', '[3.0]')}",
        ],
        "local": [],
    },
    measure=measure,
    choose=best_step_size,
    by=[*CELL, "lrate"],
    claims=CLAIMS,
    figure=lambda results: lines(
        results, x="epochs", y="rounds", by="label", columns="similarity", log="x"
    ),
    quick=["rounds=12"],
    quick_over=[
        *("seed=0..1", "client.epochs=1"),
        *("client.optimizer.lrate=1.0", "data.partition.similarity=0.0"),
    ],
)

if __name__ == "__main__":
    main(EXPERIMENT)
