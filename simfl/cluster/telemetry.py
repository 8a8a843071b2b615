"""A run's metrics, as Prometheus reads them from Ray's metrics agents.

``Metric`` lists them all; the dashboards are built from it, and the documentation is tested against
it. Ray is imported only when a run starts to export.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Literal, TypeAlias

import numpy as np

from simfl.messages import NOT_FINITE, STRAGGLER
from simfl.observers import ClientTable, Observer, RoundRecord, RunInfo, Summary

RUN_TAGS = ("run", "scenario")
"""The tags of all metrics: the run's folder as the user gave it, and the scenario's name."""

_Tags: TypeAlias = tuple[tuple[str, str], ...]

_EXPORT_EVERY_S = 1.0
"""Ray drops a gauge that was not set for two report intervals, which are 1 s or longer."""

_PROBE_TIMEOUT_S = 1.0


class Metric(Enum):
    """A metric: its kind, unit, help text, and tags besides ``RUN_TAGS``.

    There are no tags for clients or rounds, since Ray drops a metric with more than 2,000 series.
    """

    RUN_INFO = "gauge", "1", "The run's folder and Ray's dashboard", "folder", "dashboard"
    ROUND = "gauge", "rounds", "The last completed round"
    PLANNED_ROUNDS = "gauge", "rounds", "The number of rounds that the run will have"
    POPULATION = "gauge", "clients", "The number of clients"
    COHORT = "gauge", "clients", "The number of clients in the last round"
    CLIENT_ACTORS = "gauge", "actors", "The number of actors that train clients"
    MEASURE = "gauge", "1", "The latest train_loss, loss, accuracy and so on", "metric"
    DELTA_NORM = "gauge", "1", "The L2 norm of the last round's aggregated delta"
    ROUND_TIMESTAMP_SECONDS = "gauge", "seconds", "Unix time at the end of the last round"
    CHECKPOINT_TIMESTAMP_SECONDS = "gauge", "seconds", "Unix time of the last checkpoint"
    SLOWEST_CLIENT_SECONDS = "gauge", "seconds", "Slowest client of the last round", "role", "actor"

    ROUNDS = "counter", "rounds", "Completed rounds"
    CLIENTS = (
        "counter",
        "clients",
        "Clients by outcome: finished, failed (an error in their own code), or dropped (an update "
        "that is not finite, or a straggler)",
        "outcome",
    )
    RETRIED_CLIENTS = "counter", "clients", "Clients trained again because their actor died"
    EXAMPLES = "counter", "examples", "Examples that clients trained on, in each pass over them"
    STEPS = "counter", "steps", "Steps that clients took"
    PHASE_SECONDS = (
        "counter",
        "seconds",
        "Wall time by phase: sample, train, aggregate, evaluate, checkpoint, observe",
        "phase",
    )
    BYTES = "counter", "bytes", "Traffic of a real federation: broadcast, gathered", "direction"
    AUX_BYTES = "counter", "bytes", "The part of this traffic that is auxiliary variables"
    DENSE_BYTES = "counter", "bytes", "What the gathered traffic would be without a codec"
    BUSY_SECONDS = "counter", "seconds", "Time spent training or aggregating", "role", "actor"
    IDLE_SECONDS = "counter", "seconds", "Time that client actors were idle, all together"
    TRAINED_CLIENTS = "counter", "clients", "Clients that an actor trained", "role", "actor"

    def __init__(self, kind: Literal["gauge", "counter"], unit: str, help: str, *tags: str) -> None:
        self.kind, self.unit, self.help, self.tags = kind, unit, help, tags

    @property
    def ray_name(self) -> str:
        """The name in Ray."""
        return f"simfl_{self.name.lower()}"

    @property
    def series(self) -> str:
        """The name in Prometheus.

        >>> Metric.ROUNDS.series
        'ray_simfl_rounds_total'
        """
        return f"ray_{self.ray_name}" + ("_total" if self.kind == "counter" else "")


class Exporter:
    """Exports the metrics of one run through Ray.

    Args:
        tags: the values of ``RUN_TAGS``.
    """

    def __init__(self, tags: Mapping[str, str]) -> None:
        # Not at the top: Ray reads its settings from the environment when it is imported.
        from ray.util.metrics import Counter, Gauge

        classes: dict[str, Any] = {"gauge": Gauge, "counter": Counter}
        self._instruments: dict[Metric, Any] = {
            metric: classes[metric.kind](
                metric.ray_name, description=metric.help, tag_keys=RUN_TAGS + metric.tags
            ).set_default_tags(dict(tags))
            for metric in Metric
        }
        self._values: dict[tuple[Metric, _Tags], float] = {}
        self._is_over = threading.Event()
        self._thread = threading.Thread(
            target=self._set_repeatedly, name="simfl-metrics", daemon=True
        )
        self._thread.start()

    def set(self, gauge: Metric, value: float | None, **tags: str) -> None:
        """Set a gauge; None ends the series instead of showing the previous value."""
        if value is None:
            self.forget(gauge, **tags)
            return
        self._values[gauge, tuple(tags.items())] = value
        self._instruments[gauge].set(value, tags=tags)

    def add(self, counter: Metric, value: float, **tags: str) -> None:
        """Add to a counter; Ray refuses to add 0."""
        if value > 0:
            self._instruments[counter].inc(value, tags=tags)

    def forget(self, gauge: Metric, **tags: str) -> None:
        """End all series of a gauge that have these tags."""
        self._values = {
            (other, its_tags): value
            for (other, its_tags), value in self._values.items()
            if other is not gauge or not tags.items() <= dict(its_tags).items()
        }

    def close(self) -> None:
        """End the series of all gauges."""
        self._is_over.set()
        self._thread.join()

    def _set_repeatedly(self) -> None:
        while not self._is_over.wait(_EXPORT_EVERY_S):
            for (gauge, tags), value in dict(self._values).items():
                self._instruments[gauge].set(value, tags=dict(tags))


class RayMetrics(Observer):
    """Exports the numbers of a run through Ray's metrics, for Prometheus to read from every node.

    All of them are in the run's folder, too; nothing depends on the export.

    Args:
        notify: called with a message if metrics are not available.
    """

    def __init__(self, notify: Callable[[str], None]) -> None:
        self._notify = notify
        self._exporter: Exporter | None = None

    def on_run_start(self, info: RunInfo) -> None:
        """Export what is known of the run before its first round."""
        if (missing := _missing_agent()) is not None:
            self._notify(f"{missing}; the run continues without metrics for Prometheus")
            return
        folder = str(info.out.absolute())
        self._exporter = exporter = Exporter({"run": str(info.out), "scenario": info.name})
        exporter.set(Metric.RUN_INFO, 1, folder=folder, dashboard=info.dashboard or "")
        exporter.set(Metric.ROUND, len(info.history))
        exporter.set(Metric.PLANNED_ROUNDS, info.rounds)
        exporter.set(Metric.POPULATION, info.population)
        exporter.set(Metric.CLIENT_ACTORS, info.num_actors)

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        """Export the numbers of a round."""
        if self._exporter is not None:
            _export_progress(self._exporter, record)
            _export_counts(self._exporter, record, clients)
            _export_actors(self._exporter, record, clients)

    def flush(self) -> None:
        """Export that a checkpoint starts."""
        if self._exporter is not None:
            self._exporter.set(Metric.CHECKPOINT_TIMESTAMP_SECONDS, time.time())

    def on_run_end(self, summary: Summary) -> None:
        """Stop exporting; Prometheus keeps what it has read."""
        if self._exporter is not None:
            self._exporter.close()


def _export_progress(exporter: Exporter, record: RoundRecord) -> None:
    exporter.set(Metric.ROUND, record.round)
    exporter.set(Metric.ROUND_TIMESTAMP_SECONDS, time.time())
    exporter.set(Metric.DELTA_NORM, record.delta_norm)
    for name, value in record.measures.items():
        exporter.set(Metric.MEASURE, value, metric=name)
    exporter.add(Metric.ROUNDS, 1)
    for phase, seconds in record.phases.items():
        exporter.add(Metric.PHASE_SECONDS, seconds, phase=phase)


def _export_counts(exporter: Exporter, record: RoundRecord, clients: ClientTable) -> None:
    dropped = sum(reason in (NOT_FINITE, STRAGGLER) for reason in clients.dropped.values())
    exporter.set(Metric.COHORT, len(clients))
    exporter.set(Metric.CLIENT_ACTORS, record.actors)
    exporter.add(Metric.CLIENTS, record.clients, outcome="finished")
    exporter.add(Metric.CLIENTS, dropped, outcome="dropped")
    exporter.add(Metric.CLIENTS, len(clients.dropped) - dropped, outcome="failed")
    exporter.add(Metric.RETRIED_CLIENTS, int((clients.retries > 0).sum()))
    exporter.add(Metric.EXAMPLES, record.examples_seen)
    exporter.add(Metric.STEPS, record.steps)
    exporter.add(Metric.BYTES, record.sent_bytes, direction="broadcast")
    exporter.add(Metric.BYTES, record.received_bytes, direction="gathered")
    exporter.add(Metric.AUX_BYTES, record.aux_bytes)
    exporter.add(Metric.DENSE_BYTES, record.received_dense_bytes)


def _export_actors(exporter: Exporter, record: RoundRecord, clients: ClientTable) -> None:
    exporter.add(Metric.BUSY_SECONDS, record.phases["aggregate"], role="server", actor="server")
    idle_s = record.seconds * record.actors - float(np.sum(clients.seconds))
    exporter.add(Metric.IDLE_SECONDS, idle_s)
    # An actor without clients in this round has no slowest client.
    exporter.forget(Metric.SLOWEST_CLIENT_SECONDS)
    for number, actor in enumerate(clients.actors):
        seconds = clients.seconds[clients.actor == number]
        tags = {"role": "client", "actor": actor}
        exporter.add(Metric.BUSY_SECONDS, float(np.sum(seconds)), **tags)
        exporter.add(Metric.TRAINED_CLIENTS, len(seconds), **tags)
        exporter.set(Metric.SLOWEST_CLIENT_SECONDS, float(np.max(seconds)), **tags)


def _missing_agent() -> str | None:
    """Return what keeps this node from exporting metrics, or None."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    (node,) = (node for node in ray.nodes() if node["NodeID"] == here)
    address, port = node["NodeManagerAddress"], node["MetricsExportPort"]
    if port <= 0:
        return "Ray's metrics are switched off on this node"
    try:
        socket.create_connection((address, port), timeout=_PROBE_TIMEOUT_S).close()
    except OSError as error:
        return f"Ray's metrics agent does not answer at {address}:{port} ({error})"
    return None
