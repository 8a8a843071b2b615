"""The metric by which runs are ranked, and whether large or small values are better.

A run records this in ``run.json``. For runs of earlier versions, it is guessed from names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from simfl.report.reading import Run

_COUNTS: Final = ("clients", "dropped", "examples", "examples_seen", "steps")
_ENDINGS: Final = ("_by_examples", "_std", "_worst", "_count")
_NAMES_OF_LOSSES: Final = ("loss", "mae", "mse", "error", "perplexity")


def main_metric(runs: Sequence[Run]) -> str | None:
    """Return the metric by which runs are ranked, among those with a value in their records.

    It is the scenario's first metric on the test split; without a test split, its mean over
    clients.
    """
    found = metric_keys(runs)
    wanted = dict.fromkeys(key for run in runs for key in run.better)
    return next((key for key in [*wanted, *_by_name(found)] if key in found), None)


def smaller_is_better(metric: str, runs: Iterable[Run]) -> bool:
    """Say whether small values of a metric are better."""
    said = next((run.better[metric] for run in runs if metric in run.better), None)
    if said is not None:
        return said == "min"
    return any(part in metric.lower() for part in (*_NAMES_OF_LOSSES, "_std"))


def best(metric: str, values: Iterable[float], runs: Iterable[Run]) -> float | None:
    """Return the best of the finite values; None without any."""
    finite = [value for value in values if math.isfinite(value)]
    pick = min if smaller_is_better(metric, runs) else max
    return pick(finite) if finite else None


def metric_keys(runs: Iterable[Run]) -> list[str]:
    """Return what was measured of the model: train loss, test loss, metrics, in this order.

    Without a test split, the means over clients take its place.
    """
    found = dict.fromkeys(key for run in runs for record in run.records for key in record)
    metrics = [key for key in found if is_number_of_training(key) and not _is_count(key)]
    own = [key for key in metrics if not key.startswith("client_")]
    if set(own) <= {"train_loss", "delta_norm"}:
        own += [key for key in metrics if is_over_clients(key)]
    first = [key for key in ("train_loss", "loss", "client_loss") if key in own]
    last = [key for key in ("delta_norm",) if key in own]
    return [*first, *(key for key in own if key not in (*first, *last)), *last]


def is_number_of_training(key: str) -> bool:
    """Say whether a number of a record depends only on scenario and seed, not on the machine."""
    return key not in ("round", "retries", "actors") and not key.startswith("seconds")


def is_over_clients(key: str) -> bool:
    """Say whether a number of a record is the unweighted mean over clients."""
    return key.startswith("client_") and not key.endswith(_ENDINGS)


def _by_name(keys: Sequence[str]) -> list[str]:
    """Return metrics in an order guessed from their names, for runs of earlier versions."""
    is_accuracy = [k for k in keys if k == "accuracy"], [k for k in keys if "accuracy" in k]
    losses = [key for key in ("loss", "client_loss", "train_loss") if key in keys]
    return [*is_accuracy[0], *is_accuracy[1], *losses]


def _is_count(key: str) -> bool:
    return key in _COUNTS or key.endswith("_bytes")
