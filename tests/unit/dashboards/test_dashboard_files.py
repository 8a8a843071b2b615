"""Grafana's dashboards as they are checked in. What their panels show: tests/integration."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from dashboards.build import FOLDER, main

BOARDS = ("run", "actors", "fleet")


def load(name: str) -> dict[str, Any]:
    board: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return board


@pytest.mark.parametrize("name", BOARDS)
def test_the_dashboards_in_the_repository_are_up_to_date(name: str, tmp_path: Path) -> None:
    main(tmp_path)
    built = (tmp_path / f"{name}.json").read_text()
    assert built == (FOLDER / f"{name}.json").read_text(), "run python -m dashboards.build"


def test_dashboards_have_unique_constant_addresses() -> None:
    assert [load(name)["uid"] for name in BOARDS] == ["simfl-run", "simfl-actors", "simfl-fleet"]


@pytest.mark.parametrize("name", BOARDS)
def test_panels_have_unique_ids_and_do_not_overlap(name: str) -> None:
    panels = load(name)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
        assert one["x"] + one["w"] <= 24


@pytest.mark.parametrize("name", BOARDS)
def test_every_query_is_promql_with_its_variables_replaced(name: str) -> None:
    for panel in load(name)["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for variable in ("__rate_interval", "__range"):
                expression = expression.replace(f"${variable}", "5m")
            promql_parser.parse(expression)


@pytest.mark.parametrize("name", BOARDS)
def test_queries_use_the_selected_prometheus_and_unique_letters(name: str) -> None:
    for panel in load(name)["panels"]:
        targets = panel.get("targets", ())
        assert len({target["refId"] for target in targets}) == len(targets)
        assert all(target["refId"] for target in targets)
        for target in targets:
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_links_open_the_runs_folder_rays_dashboard_and_a_runs_dashboard() -> None:
    assert "file://${__field.labels.folder}" in json.dumps(load("run"))
    assert "http://${__field.labels.dashboard}" in json.dumps(load("run"))
    assert f"/d/{load('run')['uid']}?var-run=" in json.dumps(load("fleet"))


def test_grafana_and_prometheus_use_the_same_places() -> None:
    root = FOLDER.parent
    compose = yaml.safe_load((root / "docker-compose.yaml").read_text())["services"]
    (source,) = yaml.safe_load((root / "provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    providers = yaml.safe_load((root / "provisioning/dashboards/dashboards.yaml").read_text())
    ours, rays = [provider["options"]["path"] for provider in providers["providers"]]
    (scraped,) = yaml.safe_load((root / "prometheus.yml").read_text())["scrape_configs"]
    volumes = [volume.split(":") for volume in compose["grafana"]["volumes"]]
    assert ["./grafana", ours, "ro"] in volumes
    assert rays.startswith("/tmp/ray/")
    assert scraped["file_sd_configs"][0]["files"][0].startswith("/tmp/ray/")
    for service in ("prometheus", "grafana"):
        assert "/tmp/ray:/tmp/ray:ro" in compose[service]["volumes"]
    listen = source["url"].removeprefix("http://")
    assert f"--web.listen-address={listen}" in compose["prometheus"]["command"]
    for volume in [*compose["grafana"]["volumes"], *compose["prometheus"]["volumes"]]:
        place = volume.split(":")[0]
        assert not place.startswith(".") or (root / place).exists()
