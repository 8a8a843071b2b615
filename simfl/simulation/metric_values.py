"""The values of metrics that follow from their sums: on a split, of each client, over clients."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import truediv
from typing import Any

import numpy as np

from simfl.messages import FloatColumn
from simfl.models import Metric
from simfl.models.metric_sums import Rows, add_up
from simfl.models.model import MetricSums
from simfl.observers import ClientEvaluation
from simfl.record import ClientMetric, Number

TAIL_FRACTION = 0.1
"""The fraction of clients whose mean is reported as the worst, and as the best."""

_NO_VALUE = (ZeroDivisionError, OverflowError, ValueError)
"""0/0, as for the precision of a class that is never predicted; 1e308 + 1e308; inf - inf."""


@dataclass(frozen=True)
class ClientSums:
    """What one model is measured to be on each of M clients."""

    table: ClientEvaluation
    sums: Sequence[MetricSums]
    """[M] of each client."""
    metrics: Sequence[Metric]

    def over_clients(self, *, new: bool) -> tuple[dict[str, ClientMetric], dict[str, list[Any]]]:
        """Return each metric over the new clients or all others, and those that are arrays."""
        table = self.table.of_clients(new=new)
        sums = [self.sums[client] for client in table.client.tolist()]
        own = [metric for metric in self.metrics if metric.has_own_finish]
        together, arrays = values_of(sums, own)
        ascending = [metric.key for metric in self.metrics if metric.larger_is_better]
        return over_clients(table, ascending=ascending, together=together), arrays


def values_of(
    parts: Sequence[MetricSums], metrics: Iterable[Metric]
) -> tuple[dict[str, Number], dict[str, list[Any]]]:
    """Return the loss and each metric, and the metrics that are arrays, as lists, by name.

    Args:
        parts: sums over parts of the examples.
        metrics: what has been measured, besides the loss.
    """
    numbers: dict[str, Number] = {"loss": _number(_value(parts, "loss", truediv))}
    arrays: dict[str, list[Any]] = {}
    for metric in metrics:
        value = _value(parts, metric.key, metric.finish)
        if metric.is_number:
            numbers[metric.key] = _number(value)
        elif value is not None:
            arrays[metric.key] = _as_lists(np.asarray(value))
    return numbers, arrays


def _value(parts: Sequence[MetricSums], name: str, finish: Callable[..., Any]) -> Any:
    """Return what a metric is; ``fsum`` is exact, so that the order of numbers is irrelevant."""
    measured = [part[name] for part in parts if part[name]]
    try:
        return finish(*add_up(measured, add=math.fsum)) if measured else None
    except _NO_VALUE:
        return None


def _number(value: Any) -> Number:
    return float(value) if value is not None and math.isfinite(value) else None


def _as_lists(array: np.ndarray[Any, Any]) -> list[Any]:
    """Return nested lists: of whole numbers if all are, and None where there is no value."""
    if np.isfinite(array).all() and (array == np.round(array)).all():
        return array.astype(np.int64).tolist()  # type: ignore[no-any-return]
    filled = array.astype(object)
    filled[~np.isfinite(array)] = None
    return filled.tolist()  # type: ignore[no-any-return]


def by_client(
    parts: Sequence[MetricSums],
    model: str,
    is_new: np.ndarray[Any, Any] | None,
    metrics: Sequence[Metric],
) -> ClientSums:
    """Return what a model is measured to be on each client, with the table of the values.

    Args:
        parts: [M] each client's sums, by id.
        model: which weights, as in ``ClientEvaluation``.
        is_new: [M] which clients never train; None: none.
        metrics: what has been measured, besides the loss.
    """
    own = {metric.key: metric for metric in metrics if metric.has_own_finish}
    means = [name for name in parts[0] if name not in own]
    sums = np.array([[part[name] or (0.0, 0.0) for name in means] for part in parts], np.float64)
    totals, weights = sums[..., 0], sums[..., 1]
    values = np.full_like(totals, np.nan)
    np.divide(totals, weights, out=values, where=weights != 0)
    columns = {name: (values[:, i], weights[:, i]) for i, name in enumerate(means)}
    arrays = {}
    for key, metric in own.items():
        of_clients, own_weights = zip(*(_of_client(metric, part) for part in parts), strict=True)
        if metric.is_number:
            columns[key] = (np.array(of_clients, np.float64), np.array(own_weights, np.float64))
        else:
            arrays[key] = _stacked(of_clients)
    names = [name for name in parts[0] if name in columns]
    table = ClientEvaluation(
        client=np.arange(len(parts)),
        weights={name: columns[name][1] for name in names},
        metrics={name: columns[name][0] for name in names},
        is_new=is_new,
        model=model,
        arrays=arrays,
    )
    return ClientSums(table, parts, metrics)


def _of_client(metric: Metric, part: MetricSums) -> tuple[Any, float]:
    """Return a client's value, NaN if there is none, and its weight, 0 if it has no value at all.

    Of two numbers, the weight is the second; otherwise it is that of the client's examples.
    """
    sums = part[metric.key]
    if not sums:
        return math.nan, 0.0
    is_quotient = len(sums) == 2 and not any(isinstance(s, np.ndarray | Rows) for s in sums)
    weight = sums[1] if is_quotient else part["loss"][1]
    if not weight:
        return math.nan, 0.0
    try:
        value = metric.finish(*add_up([sums], add=math.fsum))
    except _NO_VALUE as error:
        has_value = is_quotient or not isinstance(error, ZeroDivisionError)
        return math.nan, weight if has_value else 0.0
    if not metric.is_number:
        return np.asarray(value, np.float64), weight
    return value if math.isfinite(value) else math.nan, weight


def _stacked(values: Sequence[Any]) -> np.ndarray[Any, Any]:
    """Return the clients' arrays, [M, ...], NaN for those that have none."""
    shape = max((np.shape(value) for value in values), key=len)
    return np.stack([np.broadcast_to(value, shape) for value in values])


def over_clients(
    clients: ClientEvaluation,
    *,
    ascending: Collection[str],
    together: Mapping[str, Number] | None = None,
) -> dict[str, ClientMetric]:
    """Return each metric over those clients that have a value.

    Args:
        clients: M clients by metric.
        ascending: the metrics whose smallest values are the worst.
        together: those of all clients' examples together that are not clients' means by weight.
    """
    metrics = {}
    for name, values_M in clients.metrics.items():
        weights_M = clients.weights[name]
        has_value_M = weights_M != 0
        values = np.sort(values_M[has_value_M])
        mean, deviation, worst, best = _spread(values, is_ascending=name in ascending)
        if together is not None and name in together and name != "loss":
            by_examples = together[name]
        else:
            by_examples = _mean(values_M[has_value_M] * weights_M[has_value_M], weights_M)
        metrics[name] = ClientMetric(mean, by_examples, deviation, worst, len(values), best)
    return metrics


def _mean(products: Iterable[float], weights: Iterable[float]) -> Number:
    try:
        return _number(math.fsum(products) / math.fsum(weights))
    except _NO_VALUE:
        return None


def _spread(values: FloatColumn, *, is_ascending: bool) -> tuple[Number, ...]:
    """Return mean, standard deviation, and the means of the worst and best tenth of sorted values.

    Source: the figures by which q-FedAvg is judged, Li et al., 2020, Table 1,
    https://arxiv.org/abs/1905.10497
    """
    if not len(values) or not np.isfinite(values).all():
        return None, None, None, None
    size = max(1, round(TAIL_FRACTION * len(values)))
    low, high = values[:size], values[-size:]
    worst, best = (low, high) if is_ascending else (high, low)
    with np.errstate(over="ignore"):
        found = float(values.mean()), float(values.std()), float(worst.mean()), float(best.mean())
    return tuple(number if math.isfinite(number) else None for number in found)
