"""FedProx (Li et al., 2020, https://arxiv.org/abs/1812.06127): Figures 1 and 2 on synthetic data.

python experiments/fedprox/run.py
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from common import Claim, Experiment, main  # noqa: E402

SKEWED = [f"({x:g}, {x:g})" for x in (0.0, 0.5, 1.0)]
"""Synthetic(alpha, beta)."""


def runs(label: str, share: float, data: str = "(1, 1)") -> str:
    """Return the query of a method's runs with a share of stragglers; "skewed": all but iid."""
    of = "data != 'iid'" if data == "skewed" else f"data == '{data}'"
    return f"label == '{label}' and share == {share} and {of}"


def measure(rounds: pd.DataFrame) -> dict[str, float]:
    """Return the loss over all training examples, and the test split's accuracy, at the end."""
    last = rounds.iloc[-1]
    return {"train_loss": last["global_train_loss"], "accuracy": last["accuracy"]}


FEDAVG, PARTIAL, PROX = "FedAvg", "FedProx, mu = 0", "FedProx, mu = 1"
CLAIMS = [
    *(
        Claim(
            "Figure 1",
            f"(1, 1), {share:.0%} stragglers: {better} has a lower training loss than {worse}",
            "train_loss",
            runs(worse, share),
            runs(better, share),
        )
        for share in (0.5, 0.9)
        for worse, better in ((FEDAVG, PARTIAL), (PARTIAL, PROX), (FEDAVG, PROX))
    ),
    Claim(
        "Figure 1",
        "(1, 1): FedAvg that drops 90 % has a higher training loss than without stragglers",
        "train_loss",
        runs(FEDAVG, 0.9),
        runs(FEDAVG, 0.0),
    ),
    *(
        Claim(
            "Figure 2",
            f"{data}, no stragglers: {PROX} has a lower training loss than {PARTIAL}",
            "train_loss",
            runs(PARTIAL, 0.0, data),
            runs(PROX, 0.0, data),
        )
        for data in SKEWED
    ),
    *(
        Claim(
            "Figure 2",
            f"no stragglers, {PARTIAL}: the training loss is higher on {worse} than on {better}",
            "train_loss",
            runs(PARTIAL, 0.0, worse),
            runs(PARTIAL, 0.0, better),
        )
        for better, worse in itertools.pairwise(["iid", *SKEWED])
    ),
    Claim(
        "appendix, Figure 5",
        "iid, 90 % stragglers: dropping them costs less than 0.02 of accuracy",
        "accuracy",
        runs(FEDAVG, 0.9, "iid"),
        runs(PARTIAL, 0.9, "iid"),
        by=-0.02,
    ),
    *(
        Claim(
            "abstract, section 5.2",
            f"{data}, 90 % stragglers: {PROX} is more accurate than FedAvg (there, by 0.22)",
            "accuracy",
            runs(PROX, 0.9, data),
            runs(FEDAVG, 0.9, data),
        )
        for data in ("(1, 1)", "skewed")
    ),
]

EXPERIMENT = Experiment(
    folder=HERE,
    variants={
        "iid": ["data.iid=true"],
        **{f"({x:g}, {x:g})": [f"data.alpha={x}", f"data.beta={x}"] for x in (0.0, 0.5, 1.0)},
    },
    measure=measure,
    by=["data", "share", "label"],
    claims=CLAIMS,
    figure=[
        *("--chart", "global_train_loss", "--width", "6"),
        *("--facet", "name", "--facet", "client.epochs.share"),
    ],
    quick=["rounds=5", "data.max_examples=60", "client.epochs.full=4"],
    quick_over=["seed=0..1", "client.epochs.share=0.9"],
)

if __name__ == "__main__":
    main(EXPERIMENT)
