"""Ray is started early where there is no doubt with what, and not again."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from simfl.cluster import early
from simfl.cluster.connect import Connection
from simfl.cluster.early import connect_with, start_early, usual_options
from simfl.errors import ClusterError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nothing is started early there")

USUAL = usual_options(keeps_events=False)


class Session:
    """Stands for the ray module."""

    def __init__(self) -> None:
        self.is_over = False

    def shutdown(self) -> None:
        self.is_over = True


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """With what ``connect`` was called."""
    made: list[dict[str, Any]] = []

    def connect(**options: Any) -> Connection:
        made.append(options)
        if options["num_cpus"] == 13:
            raise ClusterError("unlucky")
        return Connection(Session(), is_owned=True)

    monkeypatch.setattr(early, "connect", connect)
    monkeypatch.setattr(early, "_early", None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return made


def test_what_was_started_early_is_taken(calls: list[dict[str, Any]]) -> None:
    start_early({"threads": 2}, keeps_events=False)
    assert not connect_with(**USUAL).ray.is_over
    assert calls == [USUAL]


def test_it_is_taken_once(calls: list[dict[str, Any]]) -> None:
    start_early({}, keeps_events=False)
    assert connect_with(**USUAL) is not connect_with(**USUAL)
    assert calls == [USUAL, USUAL]


def test_what_will_not_do_is_ended_and_another_started(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    over: list[Any] = []
    monkeypatch.setattr(Session, "shutdown", lambda self: over.append(self))
    start_early({}, keeps_events=False)
    wanted = USUAL | {"num_cpus": 100}
    connection = connect_with(**wanted)
    assert calls == [USUAL, wanted]
    assert len(over) == 1
    assert connection.ray not in over


@pytest.mark.parametrize(
    "section", [{"address": "auto"}, {"actors": 64}, {"dashboard": True}, ["nonsense"], None]
)
def test_where_there_is_doubt_nothing_is_started(
    section: object, calls: list[dict[str, Any]]
) -> None:
    start_early(section, keeps_events=False)
    connect_with(**USUAL | {"num_cpus": 7})
    assert [options["num_cpus"] for options in calls] == [7]


def test_nothing_is_started_where_the_environment_names_a_cluster(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    start_early({}, keeps_events=False)
    connect_with(**USUAL | {"num_cpus": 7})
    assert [options["num_cpus"] for options in calls] == [7]


def test_an_error_arrives_where_the_connection_is_asked_for(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early, "cpus_of_this_machine", lambda: 13)
    start_early({}, keeps_events=False)
    with pytest.raises(ClusterError, match="unlucky"):
        connect_with(**usual_options(keeps_events=False))
