"""The metric by which runs are ranked, and whether large or small values are better.

A run records this in ``run.json``. For runs of earlier versions, it is guessed from names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from simfl.record import client_keys, split_metrics
from simfl.report.reading import Run

_NAMES_OF_LOSSES: Final = ("loss", "mae", "mse", "error", "perplexity", "_std")


def main_metric(runs: Sequence[Run]) -> str | None:
    """Return the metric by which runs are ranked, among those with a value in their records.

    It is the scenario's first metric on the test split; without a test split, its mean over
    clients.
    """
    found = metric_keys(runs)
    return next((key for key in [*_ranking(runs), *_by_name(found)] if key in found), None)


def main_client_metric(runs: Sequence[Run]) -> str | None:
    """Return the metric over clients by which runs are ranked, among those in their records."""
    _, found = split_metrics(_keys(runs))
    means = {client_keys(metric)["mean"]: metric for metric in found}
    ranked = [*_ranking(runs), *_by_name(list(means))]
    return next((means[key] for key in ranked if key in means), None)


def smaller_is_better(metric: str, runs: Iterable[Run]) -> bool:
    """Return whether small values of a metric are better."""
    known = next((run.better[metric] for run in runs if metric in run.better), None)
    if known is not None:
        return known == "min"
    return any(part in metric.lower() for part in _NAMES_OF_LOSSES)


def best(metric: str, values: Iterable[float], runs: Iterable[Run]) -> float | None:
    """Return the best of the finite values; None without any."""
    finite = [value for value in values if math.isfinite(value)]
    pick = min if smaller_is_better(metric, runs) else max
    return pick(finite) if finite else None


def metric_keys(runs: Iterable[Run]) -> list[str]:
    """Return the metrics in the records: train loss, test loss, others, the delta's norm.

    Without a test split, the means over clients take its place.
    """
    found = _keys(runs)
    metrics, over_clients = split_metrics(found)
    means = [client_keys(metric)["mean"] for metric in over_clients]
    shown = ["train_loss", *(metrics or means), "delta_norm"]
    first = [key for key in ("train_loss", "loss", "client_loss") if key in shown]
    return [key for key in dict.fromkeys([*first, *shown]) if key in found]


def _keys(runs: Iterable[Run]) -> dict[str, None]:
    return dict.fromkeys(key for run in runs for record in run.records for key in record)


def _ranking(runs: Iterable[Run]) -> dict[str, None]:
    """Return metrics in the order in which they rank runs, as the runs have recorded it."""
    return dict.fromkeys(key for run in runs for key in run.better)


def _by_name(keys: Sequence[str]) -> list[str]:
    """Return metrics in an order guessed from their names, for runs of earlier versions."""
    exact = [key for key in keys if key == "accuracy"]
    similar = [key for key in keys if "accuracy" in key]
    losses = [key for key in ("loss", "client_loss", "train_loss") if key in keys]
    return [*exact, *similar, *losses]
