"""FedOpt (Reddi et al., 2021, https://arxiv.org/abs/2003.00295): Table 1 and Figures 1 and 2.

python experiments/fedopt/run.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from simfl.report.bands import mean_and_edges
from simfl.report.charts import Band, Facets, HeatMap, Line, Lines, colour_of

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from common import Claim, Experiment, main, run_variant  # noqa: E402

RATES = ["client.optimizer.lrate", "server.optimizer.lrate"]
GRIDS = {
    "tags": ((10, 100, 1000), (0.1, 1, 10)),
    "Hamlet": ((3, 10), (0.1, 1)),
    "digits": ((0.03, 0.1, 0.3), (0.1, 0.3, 1)),
}
"""What is tried for each optimizer: step sizes of the clients, and of the server."""
TUNING_SEED = 100
"""Not among the seeds of the results."""
HEAT_MAPS = ("FedAvgM", "FedAdam", "FedYogi")
"""As in the paper's Figure 2."""
ADAPTIVE = "label in ['FedAdagrad', 'FedAdam', 'FedYogi']"


def measure(rounds: pd.DataFrame) -> dict[str, float]:
    """Return the mean over the last five evaluations of recall at 5, or of the accuracy."""
    return {"score": rounds[metric_of(rounds)].dropna().tail(5).mean()}


def metric_of(rounds: pd.DataFrame) -> str:
    """Return recall at 5, or the accuracy."""
    return "recall-at-5" if "recall-at-5" in rounds else "accuracy"


def tune(variant: str, folder: Path, is_quick: bool) -> tuple[Sequence[str], pd.DataFrame]:
    """Choose the step sizes of each optimizer; return the sweep's cases with them, and the runs."""
    grids = [grid[-1:] if is_quick else grid for grid in GRIDS[variant]]
    values = (",".join(map(str, grid)) for grid in grids)
    over = [f"{key}={text}" for key, text in zip(RATES, values, strict=True)]
    tried = run_variant(
        EXPERIMENT,
        variant,
        folder.with_name(f"{folder.name}-tuning"),
        is_quick=is_quick,
        over=[*over, f"seed={TUNING_SEED}"],
    )
    cases = yaml.safe_load((HERE / "sweep.yaml").read_text())["sweep"]["cases"]
    for best in best_of(tried).to_dict("records"):
        cases[best["label"]] |= {key: best[key] for key in RATES}
    return [f"sweep.cases={json.dumps(cases)}"], tried


def best_of(tried: pd.DataFrame) -> pd.DataFrame:
    """Return the best run of each optimizer, and the share of runs that are nearly as good."""
    by_optimizer = tried.groupby(["data", "label"], sort=False)["score"]
    near_best = (tried["score"] >= 0.9 * by_optimizer.transform("max")).groupby(
        [tried["data"], tried["label"]]
    )
    return tried.assign(near_best=near_best.transform("mean").round(2)).loc[by_optimizer.idxmax()]


def choose(results: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with chosen step sizes, and by how much each is better than FedAvg.

    ``near_best`` is the share of pairs of step sizes with at least 90 % of the best pair's score.
    """
    is_tuning = results["seed"] == TUNING_SEED
    best = best_of(results[is_tuning])[["data", "label", *RATES, "near_best"]]
    final = results[~is_tuning].drop(columns=RATES).merge(best, on=["data", "label"])
    plain = final[final["label"] == "FedAvg"].set_index(["data", "seed"])["score"]
    base = plain.loc[list(zip(final["data"], final["seed"], strict=True))].to_numpy()
    return final.assign(gain=final["score"] - base)


def curves(chosen: pd.DataFrame) -> Facets:
    """Return the score by rounds of each optimizer, side by side for the data."""
    charts = []
    for _, of_data in chosen.groupby("data", sort=False):
        lines = []
        for index, (label, runs) in enumerate(of_data.groupby("label", sort=False)):
            histories = [pd.read_json(run / "metrics.jsonl", lines=True) for run in runs["folder"]]
            metric = metric_of(histories[0])
            values = pd.concat([h[["round", metric]].dropna() for h in histories])
            by_round = values.groupby("round")[metric].apply(list)
            mean, low, high = np.transpose([mean_and_edges(each, "ci") for each in by_round])
            rounds = by_round.index.to_numpy(float)
            lines.append(Line(label, colour_of(index), rounds, mean, Band(low, high)))
        charts.append(Lines("", "round", "recall at 5, or accuracy", tuple(lines)))
    return Facets("", tuple(chosen["data"].unique()), ("",), (tuple(charts),))


def heat_maps(results: pd.DataFrame) -> Facets:
    """Return the score by both step sizes for three optimizers, with the first data."""
    tried = results[results["seed"] == TUNING_SEED]
    tried = tried[tried["data"] == tried["data"].iloc[0]]
    charts = []
    for label in HEAT_MAPS:
        grid = tried[tried["label"] == label].pivot(
            index=RATES[1], columns=RATES[0], values="score"
        )
        chart = HeatMap(
            "",
            "client's step size",
            "server's step size",
            columns=tuple(f"{rate:g}" for rate in grid.columns),
            rows=tuple(f"{rate:g}" for rate in grid.index),
            values=grid.to_numpy(),
            texts=tuple(tuple(f"{value:.2f}" for value in row) for row in grid.to_numpy()),
        )
        charts.append(chart)
    return Facets("", HEAT_MAPS, ("",), (tuple(charts),))


def _is(label: str, data: str) -> str:
    return f"label == '{label}' and data == '{data}'"


EXPERIMENT = Experiment(
    folder=HERE,
    variants={
        "tags": ["sweep.metric=recall-at-5"],
        "Hamlet": [
            "rounds=20",
            "data={source: text, path: ../../configs/data/hamlet.txt, speaker: '([A-Z][A-Z ]+)$',"
            " client: speaker, tokenizer: characters, max_tokens: 32, test_fraction: 0.2}",
            "model={kind: char-lstm, layers: 1, hidden: 48}",
            "client.batch_size=8",
            "client.stack=1",
            "evaluation={every: 1, metrics: [accuracy]}",
            "sweep.metric=accuracy",
        ],
        "digits": [
            "data={source: digits, test_fraction: 0.2,"
            " partition: {kind: dirichlet, clients: 100, alpha: 0.3}}",
            "model={kind: mlp, hidden: [64]}",
            "evaluation={every: 4, metrics: [accuracy]}",
            "sweep.metric=accuracy",
        ],
    },
    tune=tune,
    measure=measure,
    choose=choose,
    by=["data", "label", *RATES, "near_best"],
    claims=[
        *(
            Claim(
                "Table 1, section 5.1",
                f"sparse gradients: {label} is better than {other}",
                "score",
                _is(label, "tags"),
                _is(other, "tags"),
            )
            for label in ("FedAdagrad", "FedAdam", "FedYogi")
            for other in ("FedAvg", "FedAvgM")
        ),
        Claim(
            "Table 1",
            "sparse gradients: FedAdagrad is better than FedAdam",
            "score",
            _is("FedAdagrad", "tags"),
            _is("FedAdam", "tags"),
        ),
        *(
            Claim(
                "Table 1",
                f"images: {label} is better than FedAvg",
                "score",
                _is(label, "digits"),
                _is("FedAvg", "digits"),
            )
            for label in ("FedAvgM", "FedAdam", "FedYogi")
        ),
        *(
            Claim(
                "Table 1, section 5.1",
                f"images: {label} and FedAvgM are within 0.01",
                "score",
                _is(label, "digits"),
                _is("FedAvgM", "digits"),
                within=0.01,
            )
            for label in ("FedAdam", "FedYogi")
        ),
        Claim(
            "Table 1",
            "images: FedYogi is better than FedAdagrad",
            "score",
            _is("FedYogi", "digits"),
            _is("FedAdagrad", "digits"),
        ),
        Claim(
            "Table 1",
            "characters: adaptive methods and FedAvg are within 0.02",
            "score",
            f"{ADAPTIVE} and data == 'Hamlet'",
            _is("FedAvg", "Hamlet"),
            within=0.02,
        ),
        *(
            Claim(
                "section 5.1",
                f"the adaptive methods' gain over FedAvg is larger with tags than with {data}",
                "gain",
                f"{ADAPTIVE} and data == 'tags'",
                f"{ADAPTIVE} and data == '{data}'",
            )
            for data in ("digits", "Hamlet")
        ),
    ],
    figure=curves,
    figures={"step-sizes.svg": heat_maps},
    quick=["rounds=8", "data.partition.clients=20", "evaluation.every=2"],
    quick_over=["seed=0..1"],
)

if __name__ == "__main__":
    main(EXPERIMENT)
