"""The kinds of panels in simfl's dashboards, built with Grafana's own library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from grafana_foundation_sdk.builders import common, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    StackingMode,
    TooltipDisplayMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

Query: TypeAlias = tuple[str, str]
"""PromQL, and the legend of its series."""

Panel: TypeAlias = "timeseries.Panel | stat.Panel | table.Panel"

_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")


def dashboard(
    uid: str,
    title: str,
    description: str,
    *,
    variables: Sequence[QueryVariable],
    rows: Mapping[str, Sequence[Panel]],
) -> Dashboard:
    """Return a dashboard.

    Args:
        uid: its part of the URL, which must not change.
        title: its name.
        description: its purpose.
        variables: the choices at its top, after the data source.
        rows: panels by the title of their row.
    """
    others = DashboardLink("simfl").type(DashboardLinkType.DASHBOARDS).tags(["simfl"])
    built = (
        Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["simfl"])
        .time("now-30m", "now")
        .refresh("5s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(others.as_dropdown(False).include_vars(True).keep_time(True))
        .with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for chosen in variables:
        built = built.with_variable(chosen)
    for name, panels in rows.items():
        built = built.with_row(Row(name))
        for panel in panels:
            built = built.with_panel(panel)
    return built


def variable(name: str, query: str, *, label: str = "", multi: bool = False) -> QueryVariable:
    """Return a variable with the values of a query to Prometheus; the newest run comes first."""
    built = (
        QueryVariable(name)
        .label(label or name)
        .datasource(_SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_DESC)
    )
    if multi:
        everything = VariableOption(text="All", value="$__all", selected=True)
        built = built.multi(True).include_all(True).all_value(".*").current(everything)
    return built


def graph(
    title: str,
    unit: str,
    *queries: Query,
    help: str = "",
    width: int = 8,
    stacked: StackingMode | None = None,
    top: float | None = None,
) -> timeseries.Panel:
    """Return a panel of curves; ``help`` is shown at its title."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(help)
        .unit(unit)
        .span(width)
        .height(8)
        .min(0)
        .line_width(2)
        .fill_opacity(70 if stacked else 8)
        .datasource(_SOURCE)
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        .targets([_target(*query) for query in queries])
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().group("A").mode(stacked)).line_width(0)
    return panel if top is None else panel.max(top)


def number(
    title: str,
    unit: str,
    *queries: Query,
    help: str = "",
    width: int = 4,
    decimals: int | None = None,
    links: Sequence[tuple[str, str]] = (),
    named: BigValueTextMode = BigValueTextMode.AUTO,
) -> stat.Panel:
    """Return a panel of numbers in large print.

    Args:
        title: of the panel.
        unit: by Grafana's name.
        queries: of the numbers.
        help: shown at the title.
        width: of 24.
        decimals: the number of digits after the point; None: as needed.
        links: title and URL of the links that a click opens.
        named: whether to show the numbers, the names of the series, or both.
    """
    panel = (
        stat.Panel()
        .title(title)
        .description(help)
        .unit(unit)
        .span(width)
        .height(4)
        .datasource(_SOURCE)
        .color_mode(BigValueColorMode.NONE)
        .graph_mode(BigValueGraphMode.NONE)
        .orientation(VizOrientation.HORIZONTAL)
        .text_mode(named)
        .targets([_target(*query).instant() for query in queries])
    )
    if decimals is not None:
        panel = panel.decimals(decimals)
    if links:
        panel = panel.data_links([DashboardLink(name).url(url) for name, url in links])
    return panel


def run_table(
    title: str, columns: Sequence[tuple[str, str, str]], *, link: str, help: str = ""
) -> table.Panel:
    """Return a table with one row per run.

    Args:
        title: of the panel.
        columns: the name, the unit and the PromQL ``by (run)`` of each.
        link: the URL of a run's name.
        help: shown at the title.
    """
    values = {f"Value #{_ref_id(i)}": name for i, (name, _, _) in enumerate(columns)}
    times = {"Time": True, **{f"Time {i}": True for i in range(1, len(columns) + 1)}}
    panel = (
        table.Panel()
        .title(title)
        .description(help)
        .span(24)
        .height(9)
        .datasource(_SOURCE)
        .targets([_target(e, "").instant().format(PromQueryFormat.TABLE) for _, _, e in columns])
        .with_transformation(
            DataTransformerConfig("joinByField", options={"byField": "run", "mode": "outer"})
        )
        .with_transformation(
            DataTransformerConfig(
                "organize",
                options={"excludeByName": times, "renameByName": {"run": "Run", **values}},
            )
        )
        .override_by_name(
            "Run", [DynamicConfigValue("links", [{"title": "This run", "url": link}])]
        )
    )
    for name, unit, _ in columns:
        panel = panel.override_by_name(name, [DynamicConfigValue("unit", unit)])
    return panel


def finish(built: Dashboard) -> Any:
    """Return Grafana's model of a dashboard, with its panels and their queries numbered."""
    model = built.build()
    for number, panel in enumerate(model.panels, start=1):
        panel.id_val = number
        for index, target in enumerate(getattr(panel, "targets", None) or ()):
            target.ref_id = _ref_id(index)
    return model


def _target(expression: str, legend: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expression).legend_format(legend).datasource(_SOURCE)


def _ref_id(index: int) -> str:
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[index]
