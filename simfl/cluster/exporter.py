"""Exporter: sets metrics through Ray, and keeps them alive."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, TypeAlias

from simfl.cluster.metrics import METRICS, RUN_TAGS, Metric

_Tags: TypeAlias = tuple[tuple[str, str], ...]

_BEAT_S = 1.0
"""Ray forgets a gauge after two of its report intervals, of 1 s at the shortest."""


class Exporter:
    """Exports the metrics of one run.

    Args:
        tags: the run's, one for each of ``RUN_TAGS``.
    """

    def __init__(self, tags: Mapping[str, str]) -> None:
        # Not at the top: Ray reads its settings from the environment when it is imported.
        from ray.util.metrics import Counter, Gauge

        classes: dict[str, Any] = {"gauge": Gauge, "counter": Counter}
        self._instruments: dict[Metric, Any] = {
            metric: classes[metric.kind](
                metric.name, description=metric.help, tag_keys=RUN_TAGS + metric.tags
            ).set_default_tags(dict(tags))
            for metric in METRICS
        }
        self._values: dict[tuple[Metric, _Tags], float] = {}
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="simfl-metrics", daemon=True)
        self._heart.start()

    def set(self, gauge: Metric, value: float, **tags: str) -> None:
        """Set a gauge."""
        self._values[gauge, tuple(tags.items())] = value
        self._instruments[gauge].set(value, tags=tags)

    def add(self, counter: Metric, value: float, **tags: str) -> None:
        """Add to a counter; nothing to add is no event, and Ray refuses it."""
        if value > 0:
            self._instruments[counter].inc(value, tags=tags)

    def forget(self, gauge: Metric, **tags: str) -> None:
        """End the series of a gauge that have these tags."""

        def is_meant(key: tuple[Metric, _Tags]) -> bool:
            return key[0] == gauge and tags.items() <= dict(key[1]).items()

        self._values = {key: value for key, value in self._values.items() if not is_meant(key)}

    def close(self) -> None:
        """Let all gauges end."""
        self._ended.set()
        self._heart.join()

    def _beat(self) -> None:
        while not self._ended.wait(_BEAT_S):
            for (gauge, tags), value in dict(self._values).items():
                self._instruments[gauge].set(value, tags=dict(tags))
