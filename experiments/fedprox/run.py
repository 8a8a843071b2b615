"""FedProx (Li et al., 2020, https://arxiv.org/abs/1812.06127): Figures 1 and 2 on synthetic data.

python experiments/fedprox/run.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from common import Claim, Experiment, main  # noqa: E402

FEDAVG, PARTIAL, PROX = (
    f"label == '{n}'" for n in ("FedAvg", "FedProx, mu = 0", "FedProx, mu = 1")
)
SKEWED = "data != 'iid'"


def measure(rounds: pd.DataFrame) -> dict[str, float]:
    """Return the loss over all training examples, and the test split's accuracy, at the end."""
    last = rounds.iloc[-1]
    return {"train_loss": last["global_train_loss"], "accuracy": last["accuracy"]}


EXPERIMENT = Experiment(
    folder=HERE,
    variants={
        "iid": ["data.iid=true"],
        **{f"({x:g}, {x:g})": [f"data.alpha={x}", f"data.beta={x}"] for x in (0.0, 0.5, 1.0)},
    },
    measure=measure,
    by=["data", "share", "label"],
    claims=[
        Claim(
            "Figure 1",
            "with 90 % stragglers, keeping their work (mu = 0) lowers the training loss",
            "train_loss",
            f"{SKEWED} and share == 0.9 and {FEDAVG}",
            f"{SKEWED} and share == 0.9 and {PARTIAL}",
        ),
    ],
    figure=[
        *("--chart", "global_train_loss", "--width", "6"),
        *("--facet", "name", "--facet", "client.epochs.share"),
    ],
    quick=["rounds=5", "data.max_examples=60", "client.epochs.full=4"],
    quick_over=["seed=0..1", "client.epochs.share=0.9"],
)

if __name__ == "__main__":
    main(EXPERIMENT)
