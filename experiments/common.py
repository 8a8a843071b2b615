"""What the experiments share: their sweeps, and results, figure, table and verdicts from them.

An experiment is a scenario with a sweep, and claims of its paper. ``main`` runs what has not been
run yet, and writes ``results.csv``, ``figure.svg`` and ``table.md``.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

import simfl
from simfl.report.bands import mean_and_edges, written
from simfl.report.charts import Band, Facets, Line, Lines, colour_of
from simfl.report.figures import draw_figure
from simfl.report.study import short_keys

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Claim:
    """A claim of a paper: a metric is higher in some runs than in others, seed by seed.

    It is held if the 95 % confidence interval of the mean difference is above ``by``; or with
    ``within``, if it is between -within and within.
    """

    source: str
    """The section, figure or table."""
    text: str
    metric: str
    """A column of the results."""
    higher: str
    """Which runs: a query of pandas, such as ``label == 'scaffold' and epochs > 1``."""
    lower: str
    """Which others; several runs of a seed count with their mean."""
    by: float = 0.0
    """By how much the claim says that it is higher; negative: lower by less than this."""
    within: float | None = None
    """How far apart the two may be that are claimed to be alike."""

    def differences(self, results: pd.DataFrame) -> list[float]:
        """Return the difference of each seed; none if these runs are not among the results."""
        one, other = (
            results.query(query).groupby("seed")[self.metric].mean()
            for query in (self.higher, self.lower)
        )
        return [float(value) for value in (one - other).dropna()]

    def verdict(self, differences: Sequence[float]) -> str:
        """Return ``held``, ``not held``, or ``the opposite`` if the interval says so."""
        if len(differences) < 2:
            return "not tried"
        _, low, high = mean_and_edges(differences, "ci")
        if self.within is not None:
            return "held" if -self.within < low and high < self.within else "not held"
        return "held" if low > self.by else "the opposite" if high < 0 else "not held"


@dataclass(frozen=True)
class Experiment:
    """A paper's experiment."""

    folder: Path
    """Its folder, which has ``sweep.yaml`` and gets the results."""
    measure: Callable[[pd.DataFrame], Mapping[str, float]]
    """Returns a run's numbers, given its ``metrics.jsonl``, a row for each round."""
    claims: Sequence[Claim]
    by: Sequence[str]
    """The columns of the table's rows, such as ``["label", "epochs"]``."""
    figure: Sequence[str] | Callable[[pd.DataFrame], Facets]
    """Options of ``simfl report`` for the figure, or a function that makes it from the results."""
    figures: Mapping[str, Callable[[pd.DataFrame], Facets]] = field(
        default_factory=dict, kw_only=True
    )
    """Further figures by the name of their file, made of the results before any are chosen."""
    quick: Sequence[str]
    """Overrides, ``key=value`` each, of a run of a few seconds, of the last variant alone."""
    quick_over: Sequence[str]
    """What the sweep tries then, as for ``simfl sweep --over``."""
    variants: Mapping[str, Sequence[str]] = field(default_factory=lambda: {"": ()})
    """By name: overrides of a sweep of its own, where a sweep cannot vary keys together. The name
    is the runs', and the column ``data``."""
    choose: Callable[[pd.DataFrame], pd.DataFrame] = lambda results: results
    """Returns the runs of figure, table and claims: those of tuned step sizes."""
    tune: Callable[[str, Path, bool], tuple[Sequence[str], pd.DataFrame]] | None = None
    """Chooses values of a variant by runs in a folder of their own; given the variant, the folder
    of its other runs, and whether it is quick. Returns overrides with these values, and a row for
    each run that has chosen them."""


def main(experiment: Experiment) -> None:
    """Run an experiment, and write and print what it found."""
    name = experiment.folder.name
    parser = argparse.ArgumentParser(description=f"Run {name}, or what is left of it.")
    parser.add_argument("--quick", action="store_true", help="a few rounds, to try it out")
    parser.add_argument("--out", type=Path, help=f"of the runs; default: runs/{name}")
    given = parser.parse_args()
    out = given.out or Path("runs") / (f"{name}-quick" if given.quick else name)
    variants = list(experiment.variants)[-1 if given.quick else 0 :]
    found, tuned = [], ()
    for variant in variants:
        folder = out / (variant or "sweep")
        if experiment.tune is not None:
            tuned, tried = experiment.tune(variant, folder, given.quick)
            found.append(tried)
        found.append(
            run_variant(experiment, variant, folder, is_quick=given.quick, overrides=tuned)
        )
    results = pd.concat(found, ignore_index=True)
    target = out if given.quick else experiment.folder
    kept = results.drop(columns="folder")
    kept.to_csv(target / "results.csv", index=False, float_format="%.5g", lineterminator="\n")
    results = read_results(target).assign(folder=results["folder"])
    chosen = experiment.choose(results)
    text = table(experiment, chosen)
    (target / "table.md").write_text(text)
    figure = target / "figure.svg"
    if callable(experiment.figure):
        draw_figure(experiment.figure(chosen), figure, width=6, format="svg")
    else:
        report = [sys.executable, "-m", "simfl", "report", *chosen["folder"], *experiment.figure]
        subprocess.run([*report, "--out", figure], check=True)
    for file, make in experiment.figures.items():
        draw_figure(make(results), target / file, width=6, format="svg")
    for file in ("figure.svg", *experiment.figures):
        shorten(target / file)
    print(text)


def shorten(svg: Path) -> None:
    """Take comments, names of groups, indentation and digits below 0.1 points out of an SVG."""
    text = svg.read_text()
    for pattern, kept in (
        (r"<!--.*?-->\s*", ""),
        (r'<g id="[\w.]+">', "<g>"),
        (r"\n\s+", "\n"),
        (r"(?<![\d.])([1-9]\d*\.\d)\d+", r"\1"),
    ):
        text = re.sub(pattern, kept, text, flags=re.DOTALL)
    svg.write_text(text)


def lines(results: pd.DataFrame, *, x: str, y: str, by: str, columns: str, log: str) -> Facets:
    """Return charts of means and 95 % confidence intervals over seeds, side by side.

    Args:
        results: a row for each run.
        x: the column of the x axis.
        y: that of the y axis.
        by: that of the lines' names.
        columns: that of the charts' titles.
        log: the logarithmic axes: ``x``, ``y`` or ``xy``.
    """
    labels = list(dict.fromkeys(results[by]))
    charts, titles = [], []
    for title, part in results.groupby(columns):
        drawn = []
        for index, label in enumerate(labels):
            own = part[part[by] == label].groupby(x)[y].apply(list)
            mean, low, high = np.transpose([mean_and_edges(values, "ci") for values in own])
            places = own.index.to_numpy(float)
            drawn.append(Line(label, colour_of(index), places, mean, Band(low, high)))
        charts.append(Lines("", x, y, tuple(drawn), log=log, is_marked=True))
        titles.append(f"{columns} = {title:g}")
    return Facets("", tuple(titles), ("",), (tuple(charts),))


def read_results(folder: Path) -> pd.DataFrame:
    """Return a row for each run, of the file that is kept: what is said of it is what it says."""
    return pd.read_csv(folder / "results.csv")


def run_variant(
    experiment: Experiment,
    variant: str,
    folder: Path,
    *,
    is_quick: bool,
    overrides: Sequence[str] = (),
    over: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Run a sweep, or what is left of it; return a row for each run.

    Args:
        experiment: whose sweep.
        variant: one of its variants.
        folder: of the sweep.
        is_quick: whether to run it in a few seconds.
        overrides: further ones, ``key=value`` each.
        over: what is tried besides the file's ``over``; by default that of the experiment.
    """
    scenario = experiment.folder / "sweep.yaml"
    names = [f"name={json.dumps(variant)}"] if variant else []
    quick, usual = (experiment.quick, experiment.quick_over) if is_quick else ((), ())
    over = usual if over is None else over
    overrides = [*names, *experiment.variants[variant], *overrides, *quick]
    if not (folder / "sweep.yaml").exists():
        simfl.run_sweep(scenario, folder, "inline", overrides=overrides, over=over, progress=True)
    elif not _is_done(folder):
        simfl.resume_sweep(folder, "inline", progress=True)
    if not _is_done(folder):
        raise SystemExit(f"some trials of {folder} have failed; {folder}/sweep.csv says why")
    rows = pd.read_csv(folder / "sweep.csv")
    keys = list(rows.columns[1 : list(rows.columns).index("state")])
    found = rows[keys].rename(columns=short_keys(keys))
    runs = [folder / str(run) for run in rows["folder"]]
    histories = [pd.read_json(run / "metrics.jsonl", lines=True) for run in runs]
    measured = pd.DataFrame([dict(experiment.measure(history)) for history in histories])
    found = pd.concat([found, measured], axis=1).assign(
        commit=[_commit(run) for run in runs], folder=runs
    )
    if variant:
        found.insert(0, "data", variant)
    return found


def _is_done(folder: Path) -> bool:
    table = folder / "sweep.csv"
    return table.exists() and set(pd.read_csv(table)["state"]) == {"done"}


def _commit(run: Path) -> str:
    """Return the commit that a run comes from; with ``+``, there were changes."""
    (of,) = json.loads((run / "provenance.json").read_text())["git"] or [{}]
    return f"{of.get('commit', '')[:12]}{'+' if of.get('is_changed') else ''}"


def table(experiment: Experiment, results: pd.DataFrame) -> str:
    """Return the claims with their verdicts, and the results over seeds, in Markdown."""
    commits = ", ".join(sorted(set(results["commit"])))
    seeds = results["seed"].nunique()
    claims = [
        (claim.text, claim.source, written(d, "ci") if d else "—", f"**{claim.verdict(d)}**")
        for claim in experiment.claims
        for d in [claim.differences(results)]
    ]
    by = list(experiment.by)
    measured = [
        column for column in results.select_dtypes("number").columns if column not in (*by, "seed")
    ]
    groups = [
        (
            *(key if isinstance(key, tuple) else (key,)),
            *(written(list(g[m]), "sd") for m in measured),
        )
        for key, g in results.groupby(by, sort=False)
    ]
    return "\n".join(
        [
            f"# Results of commit {commits}",
            "",
            "Differences: mean over seeds, and its 95 % confidence interval.",
            "",
            *in_markdown(("claim", "where", "difference", "verdict"), claims),
            "",
            f"Over {seeds} seeds: mean ± sample standard deviation.",
            "",
            *in_markdown((*by, *measured), groups),
            "",
        ]
    )


def in_markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return the lines of a table."""
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]
