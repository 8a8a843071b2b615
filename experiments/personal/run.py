"""Personal models and fairness: Ditto, FedRep, FedBN, q-FedAvg, local and common models.

python experiments/personal/run.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd

from simfl.report.charts import Bars, Facets, Stack, colour_of

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from common import Claim, Experiment, main  # noqa: E402

SHIFT_CASES = {
    "FedAvg": {},
    "FedAvg, tuned": {"evaluation.personal_steps": 12},
    "FedProx": {"client.optimizer.regularizers": [["fedprox", {"alpha": 0.01}]]},
    "local": {"algorithm": "local-only"},
    "Ditto": {"algorithm": ["ditto", {"strength": 0.3}]},
    "FedBN": {"model.personal": ["norm"]},
}
DITTO, FEDBN, FEDREP = "Ditto, section 4", "FedBN, section 5", "FedRep, section 5, Table 1"
FAIR = "Ditto, section 4, fairness"
LOCAL = ("FedAvg", "local")
SHIFT = "feature shift"


def measure(rounds: pd.DataFrame) -> dict[str, float]:
    """Return mean, worst tenth and variance over clients of the accuracy with the weights they use.

    These are the tuned ones, or else their own, or else the common ones.
    """
    last = rounds.iloc[-1]
    kinds = ("tuned_", "personal_", "")
    key = next(name for kind in kinds if (name := f"client_{kind}accuracy") in last)
    return {
        "accuracy": last[key],
        "worst_tenth": last[f"{key}_worst"],
        "variance": last[f"{key}_std"] ** 2,
    }


def bars(chosen: pd.DataFrame) -> Facets:
    """Return each method's accuracy, of the worst tenth of clients and of all, by data."""
    labels = tuple(chosen["label"].unique())
    means = chosen.groupby(["data", "label"])[["worst_tenth", "accuracy"]].mean()
    charts = []
    data = tuple(chosen["data"].unique())
    for one in data:
        of = means.loc[one].reindex(labels)
        stacks = (
            Stack("worst tenth of clients", colour_of(0), tuple(of["worst_tenth"])),
            Stack("all clients", colour_of(1), tuple(of["accuracy"] - of["worst_tenth"])),
        )
        charts.append(Bars("", "accuracy", "", labels, stacks, is_horizontal=True))
    return Facets("", data, ("",), (tuple(charts),))


def _is(label: str, data: str) -> str:
    return f"label == '{label}' and data == '{data}'"


def better(source: str, text: str, labels: tuple[str, str], data: str, metric: str) -> Claim:
    """Return the claim that the first method has a higher number than the second, of these data."""
    higher, lower = labels
    return Claim(source, f"{data}: {text}", metric, _is(higher, data), _is(lower, data))


def claims_of_ditto(data: str) -> list[Claim]:
    """Return what its paper says: own models are better, and fairer than the common one."""
    rivals = [
        better(DITTO, f"Ditto is better than {label}", ("Ditto", label), data, "accuracy")
        for label in ("FedAvg", "local")
    ]
    text = "Ditto varies less than FedAvg over clients"
    varies = better(FAIR, text, ("FedAvg", "Ditto"), data, "variance")
    text = "Ditto's worst tenth is better than FedAvg's"
    return [*rivals, varies, better(FAIR, text, ("Ditto", "FedAvg"), data, "worst_tenth")]


def claims_of_labels(data: str) -> list[Claim]:
    """Return what the papers say of clients with few of the classes."""
    pairs = [("FedRep", "FedAvg"), ("FedRep", "local"), ("FedAvg, tuned", "FedAvg")]
    text = "q-FedAvg varies less than FedAvg over clients"
    return [
        *claims_of_ditto(data),
        *(
            better(FEDREP, f"{one} is better than {other}", (one, other), data, "accuracy")
            for one, other in pairs
        ),
        better("q-FedAvg, section 4, Table 1", text, ("FedAvg", "q-FedAvg"), data, "variance"),
    ]


EXPERIMENT = Experiment(
    folder=HERE,
    variants={
        "few examples": [],
        SHIFT: [
            "rounds=15",
            "search=[../../configs/algorithms]",
            "data={source: python, path: 'shifted_digits:scanned', arguments: {clients: 10},"
            " holdout_fraction: 0.3, partition: {kind: natural}}",
            "model={kind: python, path: 'shifted_digits:network', arguments: {hidden: 32}}",
            "client={epochs: 1, batch_size: 20, drop_last: true, optimizer: {lrate: 0.1}}",
            f"sweep.cases={json.dumps(SHIFT_CASES)}",
        ],
        "two classes": ["data.partition={kind: shards, clients: 20, shards_per_client: 2}"],
    },
    measure=measure,
    by=["data", "label"],
    claims=[
        *claims_of_labels("two classes"),
        *claims_of_labels("few examples"),
        better("introductions", "local is worse than FedAvg", LOCAL, "few examples", "accuracy"),
        *claims_of_ditto(SHIFT),
        *(
            better(FEDBN, f"FedBN is better than {other}", ("FedBN", other), SHIFT, "accuracy")
            for other in ("FedAvg", "FedProx", "local")
        ),
    ],
    figure=bars,
    quick=["rounds=6", "evaluation.clients_every=3"],
    quick_over=["seed=1..2"],
)

if __name__ == "__main__":
    main(EXPERIMENT)
