"""The gallery of the documentation: a curve of every shipped algorithm.

    python benchmarks/gallery.py                    # everything: runs, figures and the page
    python benchmarks/gallery.py run feddyn ditto   # these scenarios' runs again, in gallery.csv
    python benchmarks/gallery.py draw               # figures and page from gallery.csv alone

Runs in one process, on one core. The same gallery.csv gives the same bytes. The real data are those
of real_data.py, from packages that it names.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated

import torch
import typer
from gallery_page import (
    RESULTS,
    ROOT,
    SCENARIOS,
    Curve,
    draw,
    read_results,
    write_page,
    write_results,
)
from real_data import WRITERS

import simfl

PLAIN_LOSS = ["model={kind: mlp, hidden: [64]}"]
PLAIN_SERVER = ["server.optimizer={lrate: 1.0}"]
WITHOUT: Mapping[str, Sequence[str]] = {
    "centralized": ["algorithm=fedavg", "client.per_round=null"],
    "fedadam": PLAIN_SERVER,
    "fedbn": ["model.personal=[]"],
    "feddecorr": PLAIN_LOSS,
    "fedlc": PLAIN_LOSS,
    "fedntd": PLAIN_LOSS,
    "fedper": ["model.personal=[]"],
    "fedprox": ["client.optimizer.regularizers=[]"],
    "fedrs": PLAIN_LOSS,
    "fedsam": PLAIN_LOSS,
    "fedyogi": PLAIN_SERVER,
    "lg-fedavg": ["model.personal=[]"],
    "personal": ["model.personal=[]"],
    "scaffold": ["client.optimizer.modules=[]", "server.optimizer.modules=[]"],
    "stragglers": [
        "client.optimizer.regularizers=[]",
        "client.epochs=[stragglers, {share: 0.9, full: 20, drop: true}]",
    ],
    "topk": ["client.transforms=[]"],
}
"""What makes FedAvg of a scenario, where it isn't ``algorithm=fedavg``."""

UNLIKE = {"em", "fedsgd", "histograms", "k-means"}
"""Algorithms whose clients take no steps, or which train other models."""

README = {
    "FedAvg": [],
    "FedProx": ["client.optimizer.regularizers=[[fedprox, {alpha: 0.1}]]"],
    "SCAFFOLD": [
        "client.optimizer.modules=[scaffold-client]",
        "server={weighting: uniform, optimizer: {modules: [scaffold-server]}}",
    ],
    "FedAdam": [
        "server.optimizer={lrate: 0.03, modules: [[adam, {eps: 0.01, bias_correction: false}]]}"
    ],
}
README_BASE = ["rounds=100", "data.partition.alpha=0.1", "evaluation.every=4"]
README_SEEDS = range(5)

METRICS = {
    "afl": "client_accuracy_worst",
    "fedprox": "loss",
    "mortgages": "client_auc",
    "q-fedavg": "client_accuracy_std",
}
"""What an algorithm improves, if it isn't the accuracy of the server's or the clients' models."""


# -- runs ----------------------------------------------------------------------------------


Runner = Callable[[simfl.Scenario], tuple[simfl.Result, float]]


def make_runner() -> Runner:
    """Return a function that runs scenarios, each one once, and measures the CPU seconds."""
    known: dict[str, tuple[simfl.Result, float]] = {}

    def run(scenario: simfl.Scenario) -> tuple[simfl.Result, float]:
        values = {k: v for k, v in scenario.to_dict().items() if k not in ("name", "label")}
        key = json.dumps(values, sort_keys=True, default=str)
        if key not in known:
            with tempfile.TemporaryDirectory() as out:
                begin = time.process_time()
                result = simfl.run(scenario, out=f"{out}/run", backend="inline")
                known[key] = result, time.process_time() - begin
        return known[key]

    return run


def run_both(path: Path, run: Runner) -> Iterable[Curve]:
    """Run a shipped scenario, and FedAvg on it where that is a comparison."""
    data = real_data(path.stem)
    more = [*data, *evaluate_often(simfl.load_scenario(path, overrides=data))]
    result, seconds = run(simfl.load_scenario(path, overrides=more))
    metric = metric_of(path.stem, result)
    yield curve_of(path.stem, path.stem, metric, result, seconds)
    changes = WITHOUT.get(path.stem)
    if changes is None and path.parent.name == "algorithms" and path.stem not in UNLIKE:
        changes = ["algorithm=fedavg"]
    if changes:
        result, seconds = run(simfl.load_scenario(path, overrides=[*more, *changes]))
        metric = metric.replace("_personal", "")
        yield curve_of(path.stem, "fedavg", metric, result, seconds)


def evaluate_often(scenario: simfl.Scenario) -> list[str]:
    """Return overrides for about 20 evaluations, unless these decide when the run ends."""
    if scenario.stop is not None:
        return []
    keys = [key for key in ("every", "clients_every") if getattr(scenario.evaluation, key)]
    return [f"evaluation.{key}={-(-scenario.rounds // 20)}" for key in keys]


def real_data(name: str) -> list[str]:
    """Return the override that names the data of a scenario in ``configs/data``; write them."""
    if name not in WRITERS:
        return []
    return [f"data.path={WRITERS[name](ROOT)}"]


def metric_of(name: str, result: simfl.Result) -> str:
    """Return the metric that the algorithm is for."""
    known = ["client_personal_accuracy", "f1", "accuracy", "client_accuracy", "loss"]
    metrics = [METRICS[name]] if name in METRICS else known
    return next(key for key in metrics if result.summary["final"].get(key) is not None)


def curve_of(
    scenario: str, method: str, metric: str, result: simfl.Result, seconds: float, seed: int = 0
) -> Curve:
    """Return a metric's values, rounded to four digits."""
    points = {
        record["round"]: float(f"{record[metric]:.4g}")
        for record in result.history
        if record.get(metric) is not None
    }
    return Curve(commit(), scenario, method, seed, metric, round(seconds, 1), points)


@cache
def commit() -> str:
    """Return what is checked out."""
    command = ["git", "rev-parse", "--short=10", "HEAD"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout[:-1]


def run_readme(run: Runner) -> Iterable[Curve]:
    """Run the README's four methods with several seeds, with one set of data and of clients."""
    for method, changes in README.items():
        for seed in README_SEEDS:
            overrides = [*README_BASE, f"seed={seed}", "data.seed=0", *changes]
            result, seconds = run(simfl.load_scenario("quickstart", overrides=overrides))
            yield curve_of("readme", method, "accuracy", result, seconds, seed)


# -- the command ---------------------------------------------------------------------------

app = typer.Typer(add_completion=False, help=__doc__)


@app.callback(invoke_without_command=True)
def everything(context: typer.Context) -> None:
    """Run all, and draw."""
    if context.invoked_subcommand is None:
        run()
        redraw()


@app.command()
def run(names: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Run some scenarios, or all; "readme" is the README's figure."""
    torch.set_num_threads(1)
    runner = make_runner()
    known = {(c.scenario, c.method, c.seed): c for c in read_results()} if RESULTS.exists() else {}
    for path in [p for p in SCENARIOS if not names or p.stem in names]:
        for curve in run_both(path, runner):
            known[curve.scenario, curve.method, curve.seed] = curve
            print(f"{curve.scenario:20} {curve.method:20} {curve.last:.4g} {curve.seconds:.1f} s")
        write_results(known[key] for key in sorted(known))
    if not names or "readme" in names:
        known |= {(c.scenario, c.method, c.seed): c for c in run_readme(runner)}
        write_results(known[key] for key in sorted(known))


@app.command("draw")
def redraw() -> None:
    """Write figures and the page, of gallery.csv."""
    curves = read_results()
    draw(curves)
    write_page(curves)


if __name__ == "__main__":
    app()
