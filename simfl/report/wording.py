"""Numbers, times and values of a scenario as text."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from simfl.record import split_metrics

_NONE = "—"


def number(value: float | None) -> str:
    """Format a metric with four digits, and a count as it is.

    >>> number(0.96104), number(1234.5), number(0.000012345), number(None), number(75)
    ('0.9610', '1,234', '1.234e-05', '—', '75')
    """
    if value is None or math.isnan(value):
        return _NONE
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 0.001 <= abs(value) < 100:
        return f"{value:.4f}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


def mean_and_deviation(values: Sequence[float]) -> str:
    """Write the mean over seeds and their sample standard deviation; the value, if it is one.

    >>> mean_and_deviation([0.9, 0.92, 0.94]), mean_and_deviation([0.9]), mean_and_deviation([])
    ('0.9200 ± 0.0200', '0.9000', '—')
    """
    if not values:
        return _NONE
    mean, deviation = mean_of(values), deviation_of(values)
    return number(mean) if deviation is None else f"{number(mean)} ± {number(deviation)}"


def mean_of(values: Sequence[float]) -> float | None:
    """Return the mean; None without values, or if it overflows.

    >>> mean_of([0.5, 1.0]), mean_of([1e308, 1e308, 1e308]), mean_of([float("nan")])
    (0.75, None, None)
    """
    if not values or not all(map(math.isfinite, values)):
        return None
    try:
        return statistics.fmean(values)
    except OverflowError:
        return None


def deviation_of(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation; None for fewer than two values, or on overflow.

    >>> deviation_of([0.5, 1.5]), deviation_of([float("inf"), 1.0]), deviation_of([0.5])
    (0.7071067811865476, None, None)
    """
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    try:
        found = statistics.stdev(values)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def title_of(key: str) -> str:
    """Write a record's key as a title.

    >>> title_of("train_loss"), title_of("delta_norm"), title_of("loss")
    ('Train loss', 'Norm of the aggregated delta', 'Test loss')
    """
    _, over_clients = split_metrics([key])
    if over_clients:
        return f"{title_of(over_clients[0]).removeprefix('Test ')}, mean over clients"
    special = {
        "loss": "Test loss",
        "accuracy": "Test accuracy",
        "delta_norm": "Norm of the aggregated delta",
    }
    return special.get(key) or key.replace("_", " ").capitalize()


def p_value(p: float) -> str:
    """Write the p-value of a test.

    >>> p_value(0.03125), p_value(0.00001), p_value(float("nan"))
    ('0.0312', '< 0.0001', '—')
    """
    if math.isnan(p):
        return _NONE
    return f"{p:.4f}" if p >= 0.0001 else "< 0.0001"


def sentence(text: str) -> str:
    """Write a text as a sentence.

    >>> sentence("mean over seeds ± Student-t interval")
    'Mean over seeds ± Student-t interval.'
    """
    return f"{text[:1].upper()}{text[1:]}."


def quantity(value: float | None) -> str:
    """Write a count or an amount, without decimals if it is whole.

    >>> quantity(1234), quantity(2.5), quantity(None)
    ('1,234', '2.50', '—')
    """
    if value is None:
        return _NONE
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"


def duration(seconds: float | None) -> str:
    """Write seconds in its two largest units.

    >>> duration(8.34), duration(75), duration(3 * 3600 + 240), duration(90_000)
    ('8.3 s', '1 min 15 s', '3 h 4 min', '1 d 1 h')
    >>> duration(0.0523), duration(0.00004), duration(0)
    ('52.3 ms', '0.04 ms', '0 s')
    >>> duration(59.96), duration(59.94)
    ('1 min 0 s', '59.9 s')
    """
    if seconds is None or not math.isfinite(seconds):
        return _NONE
    if seconds < 0.1:
        return f"{1000 * seconds:.3g} ms" if seconds > 0 else "0 s"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def ago(seconds: float) -> str:
    """Format the time since an event.

    >>> ago(4), ago(3700), ago(200_000)
    ('4 s ago', '1 h ago', '2 d ago')
    """
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"


def value_text(value: Any) -> str:
    """Write a value of a scenario on one line.

    >>> value_text("iid"), value_text(None), value_text([64, 0.1])
    ('iid', 'null', '[64, 0.1]')
    """
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def amount(key: str, text: str | None) -> str:
    """Write a number of the ledger in the unit named by its key.

    >>> amount("sent_bytes", "2097152"), amount("seconds.train", "75"), amount("retries", "0")
    ('2.00 MiB', '1 min 15 s', '0')
    >>> amount("busy_share", "0.25"), amount("peak_memory_bytes.server", "null")
    ('25.0 %', '—')
    """
    if text == "null":
        return _NONE
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return text or _NONE
    if value is None or not math.isfinite(value):
        return text or _NONE
    if "bytes" in key:
        return in_bytes(value)
    if "share" in key:
        return f"{100 * value:.1f} %"
    is_rate = "per_second" in key
    return duration(value) if "second" in key and not is_rate else quantity(value)


def in_bytes(value: float) -> str:
    """Format a number of bytes.

    >>> in_bytes(1023), in_bytes(1536), in_bytes(2**20 - 1)
    ('1,023 B', '1.50 KiB', '1.00 MiB')
    """
    if abs(value) < 1024:
        return f"{value:,.0f} B"
    for power, unit in ((1, "KiB"), (2, "MiB"), (3, "GiB")):
        if round(abs(value) / 1024**power, 2) < 1024:
            return f"{value / 1024**power:,.2f} {unit}"
    return f"{value / 1024**4:,.2f} TiB"


def distinct(names: Sequence[str], prefix: str, *, taken: Iterable[str]) -> list[str]:
    """Return names of columns, with a prefix for those that are taken.

    >>> distinct(["state", "accuracy"], "metric", taken=["state"])
    ['metric.state', 'accuracy']
    """
    used = set(taken)
    return [f"{prefix}.{name}" if name in used else name for name in names]
