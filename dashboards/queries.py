"""PromQL over simfl's metrics, which are given as ``Metric``, not by name."""

from __future__ import annotations

from dataclasses import dataclass

from grafana_foundation_sdk.builders.dashboard import QueryVariable

from dashboards.panels import variable
from simfl.cluster.telemetry import Metric

CLIENT = 'role="client"'
"""Matches client actors."""

SERVER = 'role="server"'
"""Matches the server."""

NEEDS_GPU = ("ray_node_gpus_utilization", "ray_node_gram_used", "ray_node_gram_available")
"""Series of Ray's that exist only on nodes with a GPU."""


@dataclass(frozen=True)
class Selection:
    """The runs that a dashboard shows."""

    labels: str
    """PromQL matchers."""

    def now(self, gauge: Metric, where: str = "", *, by: str = "run", op: str = "max") -> str:
        """Return the current value; none after the end of the run."""
        return f"{op} by ({by}) ({self._series(gauge, where)})"

    def last(self, gauge: Metric, where: str = "", *, by: str = "run") -> str:
        """Return the last value in the dashboard's time range, also of runs that have ended."""
        return f"max by ({by}) (last_over_time({self._series(gauge, where)}[$__range]))"

    def recent(self, gauge: Metric) -> str:
        """Return the series of the last five minutes."""
        return f"last_over_time({self._series(gauge, '')}[5m])"

    def rate(self, counter: Metric, where: str = "", *, by: str = "run") -> str:
        """Return the increase per second."""
        return f"sum by ({by}) (rate({self._series(counter, where)}[$__rate_interval]))"

    def total(self, counter: Metric, where: str = "", *, by: str = "run") -> str:
        """Return the count in the dashboard's time range.

        ``increase`` would miss a counter's first increment.
        """
        return f"sum by ({by}) (max_over_time({self._series(counter, where)}[$__range]))"

    def total_or_0(self, counter: Metric, where: str = "") -> str:
        """Return the sum of the counts of all selected runs, or 0 if there are none."""
        return f"sum(max_over_time({self._series(counter, where)}[$__range])) or vector(0)"

    def _series(self, metric: Metric, where: str) -> str:
        return f"{metric.series}{{{','.join(filter(None, (self.labels, where)))}}}"


@dataclass(frozen=True)
class RayNode:
    """Ray's own series, for the Ray session of a dashboard."""

    labels: str
    """PromQL matchers."""

    def now(self, name: str, where: str = "", *, by: str) -> str:
        """Return the current value."""
        labels = ",".join(filter(None, (self.labels, where)))
        return f"sum by ({by}) ({name}{{{labels}}})"


RUN = Selection('run="$run"')
RUNS = Selection('scenario=~"$scenario"')
NODE = RayNode('SessionName="$session"')


def busy_share(runs: Selection) -> str:
    """Return the fraction of their time in which a run's client actors train clients.

    This is not a mean over actors, since the counters of removed actors exist until the run ends.
    """
    busy = runs.rate(Metric.BUSY_SECONDS, CLIENT)
    return f"{busy} / ({busy} + {runs.rate(Metric.IDLE_SECONDS)})"


def busy_actors(runs: Selection) -> str:
    """Return the busy fraction of the time of each client actor that had clients recently."""
    busy = runs.rate(Metric.BUSY_SECONDS, CLIENT, by="run, actor")
    return f"{busy} and on (run, actor) {runs.recent(Metric.SLOWEST_CLIENT_SECONDS)}"


def run_variable() -> QueryVariable:
    """Return the variable for the run."""
    return variable("run", f"label_values({Metric.ROUND.series}, run)")


def session_variable() -> QueryVariable:
    """Return the variable for the run's Ray session, by which the series of nodes are selected."""
    sessions = f"label_values({Metric.ROUND.series}{{{RUN.labels}}}, SessionName)"
    return variable("session", sessions, label="Ray session")
