"""The numbers that a run exports for Prometheus."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simfl.cluster import telemetry
from simfl.cluster.telemetry import RUN_TAGS, Exporter, Metric, RayMetrics
from simfl.messages import NOT_FINITE
from simfl.record import RoundRecord
from tests.unit.observers.client_tables import info, table

RECORD: dict[str, Any] = {
    "round": 4,
    "seconds": 3.0,
    "seconds_train": 2.0,
    "seconds_aggregate": 1.0,
    "seconds_evaluate": 0.0,
    "train_loss": 0.5,
    "accuracy": 0.75,
    "clients": 2,
    "dropped": 2,
    "actors": 2,
    "examples": 100,
    "examples_seen": 300,
    "steps": 10,
    "sent_bytes": 400,
    "received_bytes": 200,
    "received_dense_bytes": 800,
    "aux_bytes": 60,
    "delta_norm": 0.25,
}


class Exported:
    """Stores exported values by the text of metric and tags."""

    def __init__(self, tags: Mapping[str, str]) -> None:
        self.tags = dict(tags)
        self.values: dict[str, float] = defaultdict(float)

    def set(self, gauge: Metric, value: float | None, **tags: str) -> None:
        assert gauge.kind == "gauge"
        key = self._key(gauge, tags)
        self.values.pop(key, None)
        if value is not None:
            self.values[key] = value

    def add(self, counter: Metric, value: float, **tags: str) -> None:
        assert counter.kind == "counter"
        self.values[self._key(counter, tags)] += value

    def forget(self, gauge: Metric, **tags: str) -> None:
        name = " ".join([gauge.ray_name, *tags.values()])
        for key in [key for key in self.values if f"{key} ".startswith(f"{name} ")]:
            del self.values[key]

    def close(self) -> None:
        pass

    def _key(self, metric: Metric, tags: dict[str, str]) -> str:
        assert tuple(tags) == metric.tags
        return " ".join([metric.ray_name, *tags.values()])


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Exported]:
    """Return the exporters, in the order of their creation."""
    made: list[Exported] = []

    def make(tags: Mapping[str, str]) -> Exported:
        made.append(Exported(tags))
        return made[-1]

    monkeypatch.setattr(telemetry, "Exporter", make)
    monkeypatch.setattr(telemetry, "_missing_agent", lambda: None)
    return made


def told(made: list[Exported], **changes: Any) -> dict[str, float]:
    """Return the values exported for one round of a run."""
    observer = RayMetrics(notify=pytest.fail)
    observer.on_run_start(info(Path("runs/a"), done=3))
    columns = {
        "actor": np.array([0, 1, 1, 1]),
        "actors": ("client-0", "client-2"),
        "seconds": np.array([1.0, 0.25, 0.5, 0.75]),
        "retries": np.array([0, 0, 2, 2]),
        "dropped": {7: NOT_FINITE, 9: "ValueError: broken sensor"},
    }
    observer.on_round(RoundRecord.parse(RECORD), table(4, [5, 6, 7, 9], **(columns | changes)))
    (exported,) = made
    return exported.values


def test_metrics_are_tagged_with_the_folder_as_the_user_gave_it(made: list[Exported]) -> None:
    told(made)
    assert made[0].tags == {"run": "runs/a", "scenario": "demo"}


def test_a_clients_outcome_is_finished_dropped_or_failed(made: list[Exported]) -> None:
    values = told(made)
    outcomes = {key.split()[1]: value for key, value in values.items() if "simfl_clients " in key}
    assert outcomes == {"finished": 2, "dropped": 1, "failed": 1}
    assert values["simfl_retried_clients"] == 2
    assert values["simfl_cohort"] == 4


def test_an_actor_is_busy_as_long_as_its_clients_take(made: list[Exported]) -> None:
    values = told(made)
    assert values["simfl_busy_seconds client client-0"] == 1.0
    assert values["simfl_busy_seconds client client-2"] == 1.5
    assert values["simfl_busy_seconds server server"] == 1.0
    assert values["simfl_trained_clients client client-2"] == 3
    assert values["simfl_slowest_client_seconds client client-2"] == 0.75


def test_client_actors_are_idle_when_they_train_no_client(made: list[Exported]) -> None:
    """Two actors in a round of 3 s, in which clients took 2.5 s."""
    assert told(made)["simfl_idle_seconds"] == 3.5


def test_examples_count_as_often_as_they_were_trained_on(made: list[Exported]) -> None:
    assert told(made)["simfl_examples"] == 300


def test_measures_and_phases_have_the_names_of_metrics_jsonl(
    made: list[Exported],
) -> None:
    values = told(made)
    measures = {key.split()[1]: value for key, value in values.items() if "measure" in key}
    assert measures == {"train_loss": 0.5, "accuracy": 0.75}
    assert values["simfl_phase_seconds train"] == 2.0
    assert values["simfl_phase_seconds aggregate"] == 1.0


def test_a_missing_value_ends_the_series(made: list[Exported]) -> None:
    observer = RayMetrics(notify=pytest.fail)
    observer.on_run_start(info(Path("runs/a")))
    observer.on_round(RoundRecord.parse(RECORD), table(1, [5]))
    observer.on_round(
        RoundRecord.parse(RECORD | {"accuracy": None, "delta_norm": None}), table(2, [5])
    )
    shown = [key for key in made[0].values if "measure" in key or "delta" in key]
    assert shown == ["simfl_measure train_loss"]


def test_the_exporter_forgets_the_series_with_the_tags() -> None:
    exporter = object.__new__(Exporter)
    first, second = (("metric", "loss"),), (("metric", "recall"),)
    exporter._values = {
        (Metric.MEASURE, first): 1.0,
        (Metric.MEASURE, second): 2.0,
        (Metric.DELTA_NORM, ()): 3.0,
    }
    exporter.forget(Metric.MEASURE, metric="recall")
    assert list(exporter._values.values()) == [1.0, 3.0]
    exporter.forget(Metric.MEASURE)
    assert list(exporter._values.values()) == [3.0]


def test_a_resumed_run_starts_at_its_last_round(made: list[Exported]) -> None:
    RayMetrics(notify=pytest.fail).on_run_start(info(Path("runs/a"), done=3))
    assert made[0].values["simfl_round"] == 3
    assert made[0].values["simfl_planned_rounds"] == 9


def test_an_actor_without_clients_in_the_last_round_has_no_slowest_client(
    made: list[Exported],
) -> None:
    observer = RayMetrics(notify=pytest.fail)
    observer.on_run_start(info(Path("runs/a")))
    observer.on_round(RoundRecord.parse(RECORD), table(1, [5], actors=("client-0",)))
    observer.on_round(RoundRecord.parse(RECORD), table(2, [5], actors=("client-1",)))
    slowest = [key for key in made[0].values if "slowest" in key]
    assert slowest == ["simfl_slowest_client_seconds client client-1"]


def test_without_rays_metrics_agent_there_is_a_message_and_no_export(
    made: list[Exported], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "_missing_agent", lambda: "Ray's metrics are switched off")
    lines: list[str] = []
    observer = RayMetrics(notify=lines.append)
    observer.on_run_start(info(Path("runs/a")))
    observer.on_round(RoundRecord.parse(RECORD), table(4, [5]))
    observer.flush()
    observer.on_run_end({})
    assert lines == [
        "Ray's metrics are switched off; the run continues without metrics for Prometheus"
    ]
    assert made == []


def test_every_metric_has_a_unique_name_unit_and_help_and_no_client_tag() -> None:
    assert len({metric.series for metric in Metric}) == len(Metric) > 15
    for metric in Metric:
        assert metric.ray_name.startswith("simfl_")
        assert metric.unit
        assert metric.help
        assert not {"client", "round", *RUN_TAGS} & set(metric.tags)
        assert metric.series in (f"ray_{metric.ray_name}", f"ray_{metric.ray_name}_total")


def test_the_documentation_lists_every_metric() -> None:
    page = Path(__file__).parents[3] / "docs" / "dashboards.md"
    documented = [
        line for line in page.read_text().splitlines() if line.startswith("| `ray_simfl_")
    ]
    defined = []
    for metric in Metric:
        tags = ", ".join(f"`{tag}`" for tag in metric.tags)
        defined.append(f"| `{metric.series}` | {metric.unit} | {tags} | {metric.help} |")
    assert documented == defined
