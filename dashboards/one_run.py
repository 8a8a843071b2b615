"""The dashboard of one run: progress, learning, speed, and lost clients."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.models.common import BigValueTextMode, StackingMode

from dashboards.panels import Panel, dashboard, graph, number
from dashboards.queries import NODE, RUN, SERVER, busy_share, run_variable, session_variable
from simfl.cluster.telemetry import Metric

_LOSSES, _SCORES = 'metric=~".*loss.*"', 'metric!~".*loss.*"'


def one_run() -> Dashboard:
    """Return the dashboard of a run."""
    return dashboard(
        "simfl-run",
        "simfl: one run",
        "Progress, learning, speed and lost clients of a run.",
        variables=[run_variable(), session_variable()],
        rows={
            "Progress": _progress(),
            "Learning": _learning(),
            "Speed": _speed(),
            "Lost clients and checkpoints": _losses(),
        },
    )


def _progress() -> list[Panel]:
    left = f"{RUN.last(Metric.PLANNED_ROUNDS)} - {RUN.last(Metric.ROUND)}"
    return [
        number(
            "Round",
            "none",
            (RUN.last(Metric.ROUND), "done"),
            (RUN.last(Metric.PLANNED_ROUNDS), "planned"),
            named=BigValueTextMode.VALUE_AND_NAME,
        ),
        number(
            "Time left",
            "s",
            (f"({left}) / ({RUN.rate(Metric.ROUNDS)} > 0)", ""),
            help="At the current speed.",
        ),
        number(
            "Since the last round",
            "s",
            (f"time() - {RUN.last(Metric.ROUND_TIMESTAMP_SECONDS)}", ""),
            help="If it is much longer than a round, the run has ended or is stuck.",
        ),
        number(
            "Last measured",
            "none",
            (RUN.last(Metric.MEASURE, by="metric"), "{{metric}}"),
            width=6,
            decimals=4,
            named=BigValueTextMode.VALUE_AND_NAME,
        ),
        number(
            "Folder",
            "none",
            (RUN.last(Metric.RUN_INFO, by="folder, dashboard"), "{{folder}}"),
            width=6,
            named=BigValueTextMode.NAME,
            help="On the driver's machine. A click leads to the folder or to Ray's dashboard.",
            links=[
                ("The run's folder", "file://${__field.labels.folder}"),
                ("Ray's dashboard", "http://${__field.labels.dashboard}"),
            ],
        ),
    ]


def _learning() -> list[Panel]:
    return [
        graph("Loss", "none", (RUN.now(Metric.MEASURE, _LOSSES, by="metric"), "{{metric}}")),
        graph(
            "Accuracy and other scores",
            "none",
            (RUN.now(Metric.MEASURE, _SCORES, by="metric"), "{{metric}}"),
        ),
        graph(
            "Norm of the mean delta",
            "none",
            (RUN.now(Metric.DELTA_NORM), "delta"),
            help="Start weights minus end weights, averaged over the cohort.",
        ),
    ]


def _speed() -> list[Panel]:
    return [
        graph("Rounds", "none", (RUN.rate(Metric.ROUNDS), "rounds/s")),
        graph(
            "Training",
            "none",
            (RUN.rate(Metric.EXAMPLES), "examples/s"),
            (RUN.rate(Metric.STEPS), "client steps/s"),
        ),
        graph(
            "Where the time goes",
            "percentunit",
            (RUN.rate(Metric.PHASE_SECONDS, by="phase"), "{{phase}}"),
            stacked=StackingMode.NORMAL,
            help="Fractions of the driver's time. Broadcasting is part of 'aggregate' (the server "
            "publishes the weights) and of 'train' (the actors fetch them).",
        ),
        graph(
            "Busy and idle actors",
            "percentunit",
            (busy_share(RUN), "client actors"),
            (f"1 - {busy_share(RUN)}", "client actors, idle"),
            (RUN.rate(Metric.BUSY_SECONDS, SERVER), "server"),
            top=1,
            help="Fraction of their time. Idle client actors wait for the slowest one, for the "
            "server's step or for the evaluation.",
        ),
        graph(
            "Bytes of a real federation",
            "binBps",
            (RUN.rate(Metric.BYTES, by="direction"), "{{direction}}"),
            (RUN.rate(Metric.AUX_BYTES), "auxiliary variables"),
            (RUN.rate(Metric.DENSE_BYTES), "gathered, without a codec"),
            help="Weights to each client and deltas back, both including auxiliary variables.",
        ),
        graph(
            "Object store",
            "bytes",
            (NODE.now("ray_object_store_memory", by="Location"), "{{Location}}"),
            help="All nodes of the run's Ray session. SPILLED is on disk.",
        ),
    ]


def _losses() -> list[Panel]:
    return [
        number(
            "Clients lost",
            "none",
            (RUN.total_or_0(Metric.CLIENTS, 'outcome="failed"'), "failed"),
            (RUN.total_or_0(Metric.CLIENTS, 'outcome="dropped"'), "dropped"),
            (RUN.total_or_0(Metric.RETRIED_CLIENTS), "trained again"),
            width=8,
            named=BigValueTextMode.VALUE_AND_NAME,
            help="Failed: an error in their own code. Dropped: an update that is not finite. "
            "Trained again: their actor died, which costs only time.",
        ),
        number(
            "Age of the last checkpoint",
            "s",
            (f"time() - {RUN.last(Metric.CHECKPOINT_TIMESTAMP_SECONDS)}", ""),
            help="The time that would be lost if the run stopped now.",
        ),
        number(
            "Clients",
            "none",
            (RUN.last(Metric.COHORT), "per round"),
            (RUN.last(Metric.POPULATION), "total"),
            named=BigValueTextMode.VALUE_AND_NAME,
        ),
        graph(
            "Clients by outcome",
            "none",
            (RUN.rate(Metric.CLIENTS, by="outcome"), "{{outcome}}/s"),
            (f"{RUN.rate(Metric.RETRIED_CLIENTS)} or vector(0)", "trained again/s"),
        ),
    ]
