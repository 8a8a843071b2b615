"""A plot of the distribution of labels and examples over clients.

Shapes: S clients shown, K classes shown.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from simfl.data.dataset import Array, FederatedDataset
from simfl.data.describe import class_ids, label_counts
from simfl.errors import import_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_CLIENTS: Final = 30
_MAX_CLASSES: Final = 20
_WIDE: Final = 10  # the ratio of the largest to the smallest client that takes a log axis
_TEN: Final = (  # Tableau 10
    *("#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f"),
    *("#edc948", "#b07aa1", "#ff9da7", "#9c755f", "#bab0ac"),
)
_MAX_BINS: Final = 30
_BAR: Final = _TEN[0]
_OTHER: Final = "#e8e8e8"
_INK: Final = "#333333"


@dataclass(frozen=True)
class LabelShares:
    """The numbers of examples by client and class that a plot shows."""

    clients: Array
    """[S] ids, evenly spaced over the population."""
    counts: Array
    """[S, K] examples."""
    names: list[str]
    """[K] the names of the classes; the last may combine the rarest."""
    colours: list[Any]
    """[K] matplotlib colours."""


def label_shares(dataset: FederatedDataset) -> LabelShares | None:
    """Count labels for a plot: of up to 30 clients, and up to 20 classes.

    Of more clients, 30 evenly spaced ids are shown; of more than 20 classes, the 19 most frequent
    and the sum of the others. Returns None if targets are not class ids.
    """
    if class_ids(dataset) is None:
        return None
    shown = _evenly_spaced(dataset.num_clients)
    counts_SK, names = _merge_rare(label_counts(dataset, shown.tolist()), _class_labels(dataset))
    return LabelShares(shown, counts_SK, names, _colours(names))


def plot_label_skew(dataset: FederatedDataset, path: str | os.PathLike[str]) -> None:
    """Draw the label shares of up to 30 clients, and how many examples clients hold, as a PNG.

    ``label_shares`` selects the clients and classes. If targets are not class ids, there is only
    the histogram.

    Args:
        dataset: the data set.
        path: the file to write.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    import_extra("matplotlib", what="simfl data --png", extra="report")
    from matplotlib.figure import Figure

    sizes_C = np.diff(dataset.offsets)
    labels = label_shares(dataset)
    if labels is None:
        figure = Figure(figsize=(7, 4), layout="constrained")
        _draw_sizes(figure.subplots(), sizes_C)
    else:
        figure = _shares_and_sizes(labels, sizes_C)
    with warnings.catch_warnings():
        # Characters that are missing from the font are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(path, dpi=120, format="png", facecolor="white")


def _shares_and_sizes(labels: LabelShares, sizes_C: Array) -> Figure:
    from matplotlib.figure import Figure

    shown, counts_SK, names = labels.clients, labels.counts, labels.names
    height = 1.9 + 0.2 * max(len(shown), len(names))
    figure = Figure(figsize=(12, height), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    bars = _draw_shares(left, counts_SK, labels.colours)
    _label_clients(left, shown, counts_SK.sum(axis=1))
    title = "Labels of each client"
    if len(shown) < len(sizes_C):
        title += f" ({len(shown)} of {len(sizes_C):,})"
    _finish(left, title=title, x="share of the client's examples")
    figure.legend(
        handles=bars,
        labels=names,
        title="class",
        loc="outside left upper",
        frameon=False,
        fontsize=9,
    )
    _draw_sizes(right, sizes_C)
    return figure


def _evenly_spaced(clients: int) -> Array:
    return np.unique(np.linspace(0, clients - 1, min(clients, _MAX_CLIENTS)).round().astype(int))


def _draw_shares(axes: Axes, counts_SK: Array, colours: list[Any]) -> list[Any]:
    shares_SK = counts_SK / counts_SK.sum(axis=1, keepdims=True)
    starts_SK = np.cumsum(shares_SK, axis=1) - shares_SK
    return [
        axes.barh(
            np.arange(len(counts_SK)),
            shares_SK[:, k],
            left=starts_SK[:, k],
            color=colour,
            height=0.86,
            edgecolor="white",
            linewidth=0.4,
        )
        for k, colour in enumerate(colours)
    ]


def _label_clients(axes: Axes, shown: Array, sizes_S: Array) -> None:
    axes.set_yticks(np.arange(len(shown)), [f"{client:,}" for client in shown], fontsize=8)
    axes.set_ylabel("client", color=_INK)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    for place, size in enumerate(sizes_S.tolist()):
        axes.text(1.01, place, f"{size:,}", va="center", fontsize=7, color=_INK)
    axes.text(1.01, -0.75, "examples", va="bottom", fontsize=7, color=_INK)


def _draw_sizes(axes: Axes, sizes_C: Array) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    bins = size_bins(sizes_C).tolist()
    axes.hist(sizes_C, bins=bins, color=_BAR, edgecolor="white", linewidth=0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if is_wide(sizes_C):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(lambda size, _: f"{size:,.0f}")
    axes.yaxis.set_major_formatter(lambda clients, _: f"{clients:,.0f}")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("clients", color=_INK)
    _mark_median(axes, float(np.median(sizes_C)))
    _finish(axes, title=f"Examples per client ({len(sizes_C):,} clients)", x="examples")


def _mark_median(axes: Axes, median: float) -> None:
    axes.axvline(median, color=_INK, linewidth=1, linestyle="--")
    axes.annotate(
        f"median {median:,.{0 if median.is_integer() else 1}f}",
        (median, 1),
        (4, -4),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        va="top",
        fontsize=8,
        color=_INK,
    )


def is_wide(sizes_C: Array) -> bool:
    """Return whether the range of sizes calls for a logarithmic axis."""
    return bool(sizes_C.max() > _MAX_BINS and sizes_C.max() / sizes_C.min() > _WIDE)


def size_bins(sizes_C: Array) -> Array:
    """Return the edges of bins for counts, evenly spaced or, for a wide range, logarithmic."""
    low, high = int(sizes_C.min()), int(sizes_C.max())
    num_bins = min(_MAX_BINS, 8 + int(np.sqrt(len(sizes_C))))
    if is_wide(sizes_C):
        return np.unique(np.geomspace(low, high + 1, num_bins + 1).round()) - 0.5
    step = -(-(high - low + 1) // num_bins)
    return np.arange(low, high + step + 1, step) - 0.5


def _finish(axes: Axes, *, title: str, x: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=_INK, pad=14)
    axes.set_xlabel(x, color=_INK)
    axes.tick_params(colors=_INK, length=3)
    axes.spines[["top", "right"]].set_visible(False)


def _class_labels(dataset: FederatedDataset) -> list[str]:
    ids = class_ids(dataset)
    names = dataset.class_names
    return [names[i] if 0 <= i < len(names) else str(i) for i in ([] if ids is None else ids)]


def _merge_rare(counts_SK: Array, names: list[str]) -> tuple[Array, list[str]]:
    if len(names) <= _MAX_CLASSES:
        return counts_SK, names
    by_frequency = np.argsort(-counts_SK.sum(axis=0), kind="stable")
    kept = np.sort(by_frequency[: _MAX_CLASSES - 1])
    rest = np.sort(by_frequency[_MAX_CLASSES - 1 :])
    merged = np.column_stack([counts_SK[:, kept], counts_SK[:, rest].sum(axis=1)])
    return merged, [names[k] for k in kept] + [f"{len(rest)} others"]


def _colours(names: list[str]) -> list[Any]:
    from matplotlib import color_sequences

    colours: list[Any] = list(_TEN if len(names) <= len(_TEN) else color_sequences["tab20"])
    if names[-1].endswith(" others"):
        return [*colours[: len(names) - 1], _OTHER]
    return colours[: len(names)]
