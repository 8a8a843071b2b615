"""RayMetrics: a run as Prometheus sees it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import numpy as np

from simfl.cluster import metrics
from simfl.cluster.exporter import Exporter
from simfl.messages import NOT_FINITE
from simfl.observers import ClientTable, Observer, RoundRecord, RunInfo, Summary, measured

_PROBE_TIMEOUT_S = 1.0


class RayMetrics(Observer):
    """Exports a run's numbers through Ray's metrics, for Prometheus to fetch from every node.

    They mirror what the run's folder holds; nothing else depends on them.

    Args:
        tell: is told a line if there will be no metrics.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._exporter: Exporter | None = None

    def on_run_start(self, info: RunInfo) -> None:
        """Begin to export, with what is known of the run."""
        if (missing := _missing_agent()) is not None:
            self._tell(f"{missing}; the run goes on without metrics for Prometheus")
            return
        folder = info.out.absolute()
        self._exporter = exporter = Exporter({"run": str(info.out), "scenario": info.name})
        exporter.set(metrics.RUN_INFO, 1, folder=str(folder), dashboard=info.dashboard or "")
        exporter.set(metrics.ROUND, len(info.history))
        exporter.set(metrics.PLANNED_ROUNDS, info.rounds)
        exporter.set(metrics.POPULATION, info.population)
        exporter.set(metrics.CLIENT_ACTORS, info.num_actors)

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        """Export the round's numbers."""
        if self._exporter is None:
            return
        _export_progress(self._exporter, record)
        _export_counts(self._exporter, record, clients)
        _export_actors(self._exporter, record, clients)

    def flush(self) -> None:
        """Export that a checkpoint is begun."""
        if self._exporter is not None:
            self._exporter.set(metrics.CHECKPOINT_TIME, time.time())

    def on_run_end(self, summary: Summary) -> None:
        """Stop exporting; what Prometheus has fetched, it keeps."""
        if self._exporter is not None:
            self._exporter.close()


def _export_progress(exporter: Exporter, record: RoundRecord) -> None:
    exporter.set(metrics.ROUND, record["round"])
    exporter.set(metrics.ROUND_TIME, time.time())
    _export(exporter, metrics.DELTA_NORM, record["delta_norm"])
    for name, value in measured(record).items():
        _export(exporter, metrics.MEASURE, value, metric=name)
    exporter.add(metrics.ROUNDS, 1)
    for name, seconds in record.items():
        if name.startswith("seconds_"):
            exporter.add(metrics.PHASE_SECONDS, seconds, phase=name.removeprefix("seconds_"))


def _export(exporter: Exporter, gauge: metrics.Metric, value: float | None, **tags: str) -> None:
    """Set a gauge; without a value, end its series instead of showing the previous value."""
    if value is None:
        exporter.forget(gauge, **tags)
    else:
        exporter.set(gauge, value, **tags)


def _export_counts(exporter: Exporter, record: RoundRecord, clients: ClientTable) -> None:
    dropped = sum(why == NOT_FINITE for why in clients.dropped.values())
    exporter.set(metrics.COHORT, len(clients))
    exporter.set(metrics.CLIENT_ACTORS, record["actors"])
    exporter.add(metrics.CLIENTS, record["clients"], outcome="finished")
    exporter.add(metrics.CLIENTS, dropped, outcome="dropped")
    exporter.add(metrics.CLIENTS, len(clients.dropped) - dropped, outcome="failed")
    exporter.add(metrics.RETRIED_CLIENTS, int((clients.retries > 0).sum()))
    exporter.add(metrics.EXAMPLES, record["examples_seen"])
    exporter.add(metrics.STEPS, record["steps"])
    exporter.add(metrics.BYTES, record["sent_bytes"], direction="broadcast")
    exporter.add(metrics.BYTES, record["received_bytes"], direction="gathered")
    exporter.add(metrics.AUX_BYTES, record["aux_bytes"])


def _export_actors(exporter: Exporter, record: RoundRecord, clients: ClientTable) -> None:
    exporter.add(metrics.BUSY_SECONDS, record["seconds_aggregate"], role="server", actor="server")
    idle_s = record["seconds"] * record["actors"] - float(np.sum(clients.seconds))
    exporter.add(metrics.IDLE_SECONDS, idle_s)
    # Of the last round only: an actor that had nothing to do has no slowest client.
    exporter.forget(metrics.SLOWEST_CLIENT)
    for number, actor in enumerate(clients.actors):
        seconds = clients.seconds[clients.actor == number]
        tags = {"role": "client", "actor": actor}
        exporter.add(metrics.BUSY_SECONDS, float(np.sum(seconds)), **tags)
        exporter.add(metrics.TRAINED_CLIENTS, len(seconds), **tags)
        exporter.set(metrics.SLOWEST_CLIENT, float(np.max(seconds)), **tags)


def _missing_agent() -> str | None:
    """Return what is missing on this node for metrics to get out, if something is."""
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
