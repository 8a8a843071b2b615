"""Every metric that simfl exports through Ray, named once: for the run, the dashboards and tests.

Nothing here imports Ray. Prometheus sees a metric as ``ray_<name>``, a counter with ``_total`` at
its end. Tags say which run, phase or actor; never which client or round, since Ray drops a metric
of more than 2,000 series.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RUN_TAGS = ("run", "scenario")
"""What every metric is tagged with: the run's folder as it was given, and the scenario's name."""


@dataclass(frozen=True)
class Metric:
    """A series that a run exports, one for each combination of its tags."""

    name: str
    kind: Literal["gauge", "counter"]
    unit: str
    """As Prometheus has it: ``seconds``, ``bytes``, or what is counted."""
    help: str
    tags: tuple[str, ...] = ()
    """Beside ``RUN_TAGS``."""

    @property
    def series(self) -> str:
        """What Prometheus calls it.

        >>> ROUNDS.series
        'ray_simfl_rounds_total'
        """
        return f"ray_{self.name}" + ("_total" if self.kind == "counter" else "")


def _gauge(name: str, unit: str, help: str, *tags: str) -> Metric:
    return Metric(f"simfl_{name}", "gauge", unit, help, tags)


def _counter(name: str, unit: str, help: str, *tags: str) -> Metric:
    return Metric(f"simfl_{name}", "counter", unit, help, tags)


RUN_INFO = _gauge(
    "run_info",
    "1",
    "Where the run is: its folder, and the address of Ray's dashboard",
    "folder",
    "dashboard",
)
ROUND = _gauge("round", "rounds", "The last round that is done")
PLANNED_ROUNDS = _gauge("planned_rounds", "rounds", "How many rounds there will be")
POPULATION = _gauge("population", "clients", "How many clients there are")
COHORT = _gauge("cohort", "clients", "How many clients were drawn for the last round")
CLIENT_ACTORS = _gauge("client_actors", "actors", "How many actors train clients")
MEASURE = _gauge(
    "measure",
    "1",
    "How well the weights do, as last measured: train_loss, loss, accuracy and so on",
    "metric",
)
DELTA_NORM = _gauge("delta_norm", "1", "The L2 norm of the last round's aggregated delta")
ROUND_TIME = _gauge("round_timestamp_seconds", "seconds", "Unix time when the last round was done")
CHECKPOINT_TIME = _gauge(
    "checkpoint_timestamp_seconds", "seconds", "Unix time when the last checkpoint was begun"
)
SLOWEST_CLIENT = _gauge(
    "slowest_client_seconds",
    "seconds",
    "The longest that a client of the last round took on the actor",
    "role",
    "actor",
)

ROUNDS = _counter("rounds", "rounds", "Rounds that are done")
CLIENTS = _counter(
    "clients",
    "clients",
    "Clients by what became of their round: finished, failed (their own code), or dropped "
    "(an update that is not finite)",
    "outcome",
)
RETRIED_CLIENTS = _counter(
    "retried_clients", "clients", "Clients trained again since an actor died with them"
)
EXAMPLES = _counter(
    "examples", "examples", "Examples that clients trained on, each as often as they did"
)
STEPS = _counter("steps", "steps", "Steps that clients took")
PHASE_SECONDS = _counter(
    "phase_seconds",
    "seconds",
    "Wall time by phase: sample, train, aggregate, evaluate, checkpoint, observe",
    "phase",
)
BYTES = _counter(
    "bytes",
    "bytes",
    "What a real federation would move: broadcast to clients, gathered from them",
    "direction",
)
AUX_BYTES = _counter("aux_bytes", "bytes", "The part of these bytes that is auxiliary variables")
BUSY_SECONDS = _counter(
    "busy_seconds",
    "seconds",
    "Time an actor spent on its work: clients' training, or the server's step",
    "role",
    "actor",
)
IDLE_SECONDS = _counter(
    "idle_seconds", "seconds", "Time that client actors trained nobody, all of them together"
)
TRAINED_CLIENTS = _counter(
    "trained_clients", "clients", "Clients an actor trained", "role", "actor"
)

METRICS = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All of them."""
