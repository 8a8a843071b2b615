"""The gallery's curves as a file, its figures and its page; see gallery.py."""

from __future__ import annotations

import csv
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "gallery.csv"
FIGURES = ROOT / "docs" / "gallery"
PAGE = ROOT / "docs" / "gallery.md"

FOLDERS = {
    "Main scenarios": ROOT / "configs",
    "Real data": ROOT / "configs" / "data",
    "Algorithms": ROOT / "configs" / "algorithms",
}
SCENARIOS = [
    path
    for folder in FOLDERS.values()
    for path in sorted(folder.glob("*.yaml"))
    if path.stem != "sweep"  # several runs
]

OF_METRICS = {
    "accuracy": "accuracy on the test split",
    "client_auc": "mean AUC on what the clients hold out",
    "client_personal_accuracy": "mean accuracy of the clients' own models",
    "client_accuracy": "mean accuracy on the clients' examples",
    "client_accuracy_worst": "accuracy of the worst client",
    "client_accuracy_std": "standard deviation of clients' accuracy",
    "f1": "F1 on the test split",
    "loss": "loss on the test split",
}

BLUE, GREY = "#3b7dd8", "#808080"
COLORS = {"FedAvg": GREY, "FedProx": "#e08a1e", "SCAFFOLD": "#2f9e6e", "FedAdam": BLUE}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "simfl",
    "font.family": "sans-serif",
    "font.size": 8,
    "text.color": GREY,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Curve:
    """A metric over the rounds of a run.

    Args:
        commit: of simfl.
        scenario: its name.
        method: what was run: the scenario as it is, or FedAvg on it.
        seed: of the run.
        metric: its key in the history.
        seconds: of CPU time for the run.
        points: round -> value.
    """

    commit: str
    scenario: str
    method: str
    seed: int
    metric: str
    seconds: float
    points: Mapping[int, float]

    @property
    def last(self) -> float:
        """The final value."""
        return [*self.points.values()][-1]


# -- gallery.csv ---------------------------------------------------------------------------

COLUMNS = ("commit", "scenario", "method", "seed", "metric", "cpu_seconds", "values")


def read_results() -> list[Curve]:
    """Return all curves, in the order of the file."""
    with RESULTS.open(encoding="utf-8", newline="") as file:
        return [curve_from(row) for row in csv.DictReader(file)]


def curve_from(row: Mapping[str, str]) -> Curve:
    """Return the curve of a line."""
    pairs = (pair.split(":") for pair in row["values"].split())
    points = {int(round): float(value) for round, value in pairs}
    *texts, seed, metric, seconds, _ = (row[column] for column in COLUMNS)
    return Curve(*texts, int(seed), metric, float(seconds), points)


def write_results(curves: Iterable[Curve]) -> None:
    """Write a line for each curve: ``values`` is "round:value round:value ..."."""
    with RESULTS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for curve in curves:
            values = " ".join(f"{round}:{value:g}" for round, value in curve.points.items())
            writer.writerow([*astuple(curve)[:-1], values])


# -- figures -------------------------------------------------------------------------------


def draw(curves: Sequence[Curve]) -> None:
    """Write a figure for each scenario, and the README's."""
    FIGURES.mkdir(exist_ok=True)
    mpl.rcParams.update(STYLE)
    for path, own, reference in entries(curves):
        save(figure_of(own, reference), path.stem)
    save(readme_figure([c for c in curves if c.scenario == "readme"]), "readme")


def entries(curves: Sequence[Curve]) -> Iterable[tuple[Path, Curve, Curve | None]]:
    """Return each scenario that was run, its curve, and FedAvg's if there is one."""
    found = {(curve.scenario, curve.method): curve for curve in curves}
    for path in [path for path in SCENARIOS if (path.stem, path.stem) in found]:
        yield path, found[path.stem, path.stem], found.get((path.stem, "fedavg"))


def figure_of(own: Curve, reference: Curve | None) -> Figure:
    """Draw a scenario's curve, and FedAvg's dashed."""
    figure = Figure(figsize=(3.6, 2.0), layout="constrained")
    axes = figure.subplots()
    marker = "o" if len(own.points) == 1 else None
    if reference:
        axes.plot(*xy(reference), "--", marker=marker, color=GREY, lw=1.2, label="FedAvg")
    axes.plot(*xy(own), marker=marker, color=BLUE, lw=1.6, label=own.scenario)
    label(axes, OF_METRICS[own.metric].split(" of ")[0].split(" on ")[0])
    if reference:
        axes.legend(loc="best")
    return figure


def readme_figure(curves: Sequence[Curve]) -> Figure:
    """Draw the mean of several seeds for each method, and the band from the least to the most."""
    figure = Figure(figsize=(6.4, 3.0), layout="constrained")
    axes = figure.subplots()
    for method, color in COLORS.items():
        runs = [curve for curve in curves if curve.method == method]
        rounds = [*runs[0].points]
        values = np.array([[*run.points.values()] for run in runs])
        axes.fill_between(rounds, values.min(0), values.max(0), color=color, alpha=0.15, lw=0)
        axes.plot(rounds, values.mean(0), color=color, lw=1.6, label=method)
    label(axes, "accuracy on the test split")
    axes.set_ylim(0.7, 1.0)
    axes.legend(loc="lower right")
    return figure


def xy(curve: Curve) -> tuple[list[int], list[float]]:
    """Return a curve's rounds and values."""
    return [*curve.points], [*curve.points.values()]


def label(axes: Axes, metric: str) -> None:
    """Name the axes, with few ticks."""
    axes.set_xlabel("round")
    axes.set_ylabel(metric)
    axes.locator_params(nbins=5)
    axes.xaxis.get_major_locator().set_params(integer=True)


def save(figure: Figure, name: str) -> None:
    """Write a figure without a date, a background and indents."""
    path = FIGURES / f"{name}.svg"
    figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


# -- the page ------------------------------------------------------------------------------

INTRO = """\
# Gallery

<!-- Made by `python benchmarks/gallery.py`; change the script or the scenarios instead. -->

The shipped scenarios, each run as it is, with the curve of what it is for. The dashed line is
FedAvg on the same data, with the same model, local steps and rounds. These are single runs of
seconds on small data: they show that an algorithm works and how fast it learns there, but rank
nothing ([what to compare](algorithms.md#what-to-compare)). Where clients have models of their own,
FedAvg's curve is that of its one model on the same examples of the clients. What papers claim is
compared over several seeds ([the papers' claims](algorithms.md#the-papers-claims)).

`python benchmarks/gallery.py` makes all of it again, in {minutes} minutes of one core. It only
evaluates more often than the scenarios do. The values are in `benchmarks/gallery.csv`, with the
commits that they come from. Seconds are those of one core.
"""


def write_page(curves: Sequence[Curve]) -> None:
    """Write the page: for each scenario what it is, how it ended, and its figure."""
    text = INTRO.format(minutes=round(sum(curve.seconds for curve in curves) / 60))
    for title, folder in FOLDERS.items():
        text += f"\n## {title}\n"
        for path, own, reference in entries(curves):
            if path.parent == folder:
                text += "\n" + section(path, own, reference)
    PAGE.write_text(text, encoding="utf-8")


def section(path: Path, own: Curve, reference: Curve | None) -> str:
    """Return a scenario's part of the page."""
    name, rounds = path.stem, [*own.points][-1]
    ended = f"{OF_METRICS[own.metric]} after {rounds} round{'s' * (rounds > 1)}: {own.last:.3g}"
    if reference:
        ended += f"; FedAvg {reference.last:.3g}"
    more = " ([algorithm](algorithms.md#which-there-are))" * (path.parent.name == "algorithms")
    return (
        f"### {name}\n\n{paragraph_of(path)}\n\n"
        f"[{name}.yaml](../{path.relative_to(ROOT)}){more}. {ended[0].upper()}{ended[1:]}. "
        f"{own.seconds:.2g} s.\n\n"
        f"![{OF_METRICS[own.metric]} by round](gallery/{name}.svg)\n"
    )


def paragraph_of(path: Path) -> str:
    """Return the first paragraph of a scenario's opening comment, with its sources as links."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        lines.append(line[2:])
    text = re.sub(r"([A-Z][^();:]*), (https?://[^\s);,]+)", r"[\1](\2)", " ".join(lines))
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)
