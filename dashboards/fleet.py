"""The dashboard of all runs of some scenarios, side by side."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.panels import Panel, dashboard, graph, number, run_table, variable
from dashboards.queries import RUNS, busy_share
from simfl.cluster.telemetry import Metric

_MEASURE = 'metric="$metric"'
_LOST = 'outcome!="finished"'


def fleet() -> Dashboard:
    """Return the dashboard of all runs."""
    return dashboard(
        "simfl-fleet",
        "simfl: all runs",
        "Runs of chosen scenarios side by side.",
        variables=[
            variable("scenario", f"label_values({Metric.ROUND.series}, scenario)", multi=True),
            variable("metric", f"label_values({Metric.MEASURE.series}, metric)", label="measure"),
        ],
        rows={"Now": _now(), "Side by side": _side_by_side()},
    )


def _now() -> list[Panel]:
    lost = RUNS.total(Metric.CLIENTS, _LOST)
    return [
        number("Runs", "none", (f"count({RUNS.now(Metric.ROUND)}) or vector(0)", ""), width=6),
        number("Client actors", "none", (f"sum({RUNS.now(Metric.CLIENT_ACTORS)})", ""), width=6),
        number("Client steps/s", "none", (f"sum({RUNS.rate(Metric.STEPS)})", ""), width=6),
        number(
            "Clients lost",
            "none",
            (RUNS.total_or_0(Metric.CLIENTS, _LOST), ""),
            width=6,
        ),
        run_table(
            "Runs",
            [
                ("Round", "none", RUNS.last(Metric.ROUND)),
                ("of", "none", RUNS.last(Metric.PLANNED_ROUNDS)),
                ("Measure", "none", RUNS.last(Metric.MEASURE, _MEASURE)),
                ("Rounds/s", "none", RUNS.rate(Metric.ROUNDS)),
                (
                    "Since the last round",
                    "s",
                    f"time() - {RUNS.last(Metric.ROUND_TIMESTAMP_SECONDS)}",
                ),
                ("Clients lost", "none", f"{lost} or 0 * {RUNS.last(Metric.ROUND)}"),
            ],
            link="/d/simfl-run?var-run=${__value.text}&${__url_time_range}",
            help="In the selected time range. A click on a run opens its dashboard.",
        ),
    ]


def _side_by_side() -> list[Panel]:
    return [
        graph("$metric", "none", (RUNS.now(Metric.MEASURE, _MEASURE), "{{run}}"), width=12),
        graph(
            "Done",
            "percentunit",
            (f"{RUNS.now(Metric.ROUND)} / {RUNS.now(Metric.PLANNED_ROUNDS)}", "{{run}}"),
            width=12,
            top=1,
        ),
        graph("Rounds/s", "none", (RUNS.rate(Metric.ROUNDS), "{{run}}"), width=12),
        graph(
            "Busy client actors",
            "percentunit",
            (busy_share(RUNS), "{{run}}"),
            width=12,
            top=1,
        ),
    ]
