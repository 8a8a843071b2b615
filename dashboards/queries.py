"""PromQL over simfl's metrics: a metric is given as an object, so no name is written twice."""

from __future__ import annotations

from dataclasses import dataclass

from grafana_foundation_sdk.builders.dashboard import QueryVariable

from dashboards.panels import variable
from simfl.cluster.telemetry import Metric

CLIENT = 'role="client"'
"""Matches the actors that train clients."""

SERVER = 'role="server"'
"""Matches the server."""

NEEDS_GPU = ("ray_node_gpus_utilization", "ray_node_gram_used", "ray_node_gram_available")
"""Ray's own series that exist only on nodes with a GPU."""


@dataclass(frozen=True)
class Selection:
    """The runs that a dashboard shows."""

    labels: str
    """PromQL matchers."""

    def now(self, gauge: Metric, where: str = "", *, by: str = "run", op: str = "max") -> str:
        """Return the present value; nothing once the run has ended."""
        return f"{op} by ({by}) ({self._series(gauge, where)})"

    def last(self, gauge: Metric, where: str = "", *, by: str = "run") -> str:
        """Return the last value in the dashboard's time range, of ended runs too."""
        return f"max by ({by}) (last_over_time({self._series(gauge, where)}[$__range]))"

    def recent(self, gauge: Metric) -> str:
        """Return the series that there have been within five minutes."""
        return f"last_over_time({self._series(gauge, '')}[5m])"

    def rate(self, counter: Metric, where: str = "", *, by: str = "run") -> str:
        """Return how much is counted in a second."""
        return f"sum by ({by}) (rate({self._series(counter, where)}[$__rate_interval]))"

    def total(self, counter: Metric, where: str = "", *, by: str = "run") -> str:
        """Return what has been counted in the dashboard's time range; 0 before there is anything.

        Not ``increase``, which misses a counter's first count.
        """
        return f"sum by ({by}) (max_over_time({self._series(counter, where)}[$__range]))"

    def total_or_0(self, counter: Metric, where: str = "") -> str:
        """Return the total over all that is shown, 0 if nothing was ever counted."""
        return f"sum(max_over_time({self._series(counter, where)}[$__range])) or vector(0)"

    def _series(self, metric: Metric, where: str) -> str:
        return f"{metric.series}{{{','.join(filter(None, (self.labels, where)))}}}"


@dataclass(frozen=True)
class RayNode:
    """Ray's own series, of the Ray session that a dashboard shows."""

    labels: str
    """PromQL matchers."""

    def now(self, name: str, where: str = "", *, by: str) -> str:
        """Return the present value."""
        labels = ",".join(filter(None, (self.labels, where)))
        return f"sum by ({by}) ({name}{{{labels}}})"


RUN = Selection('run="$run"')
RUNS = Selection('scenario=~"$scenario"')
NODE = RayNode('SessionName="$session"')


def busy_share(runs: Selection) -> str:
    """Return which share of their time a run's client actors train clients.

    Not the mean over actors: the counter of one that has gone stands still as long as the run goes
    on, for Ray cannot forget a counter.
    """
    busy = runs.rate(Metric.BUSY_SECONDS, CLIENT)
    return f"{busy} / ({busy} + {runs.rate(Metric.IDLE_SECONDS)})"


def busy_actors(runs: Selection) -> str:
    """Return which share of its time each client actor is busy that has trained anybody lately."""
    busy = runs.rate(Metric.BUSY_SECONDS, CLIENT, by="run, actor")
    return f"{busy} and on (run, actor) {runs.recent(Metric.SLOWEST_CLIENT_SECONDS)}"


def run_variable() -> QueryVariable:
    """Return the choice of a run."""
    return variable("run", f"label_values({Metric.ROUND.series}, run)")


def session_variable() -> QueryVariable:
    """Return the Ray session that the run is in: its nodes' series are told apart by it."""
    sessions = f"label_values({Metric.ROUND.series}{{{RUN.labels}}}, SessionName)"
    return variable("session", sessions, label="Ray session")
