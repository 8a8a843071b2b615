"""A server's actor that does not answer is killed when its time is up."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorUnavailableError

from simfl.cluster.remote_server import RemoteServer
from simfl.sections import ClusterSection


class Killed(list[Any]):
    """The actors that were killed, and are to be started again."""

    def __call__(self, actor: Any, no_restart: bool) -> None:
        assert not no_restart
        self.append(actor)


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Killed:
    killed = Killed()
    monkeypatch.setattr(ray, "kill", killed)
    return killed


def test_a_server_that_does_not_answer_is_killed_and_the_next_one_has_time_to_start(
    killed: Killed, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, answers, told = [0.0], {}, []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(ray, "wait", lambda refs, timeout: ([r for r in refs if r in answers], []))
    monkeypatch.setattr(ray, "get", lambda ref: answers[ref])
    asked = iter(range(100))
    actor: Any = SimpleNamespace(heartbeats=SimpleNamespace(remote=lambda: next(asked)))
    server = RemoteServer(
        actor, ("setup",), cluster=ClusterSection(stall_limit_s=5.0), notify=told.append
    )

    def look_at(*seconds: float) -> None:
        for second in seconds:
            now[0] = second
            server.look()

    look_at(0)
    answers[0] = {"client-0": 1}
    look_at(100, 101, 105)
    assert killed == [], "it has answered, and was asked again 4 s ago"
    look_at(107)
    assert killed == [actor]
    look_at(108, 200)
    assert killed == [actor], "it is being restarted"
    answers[2] = {}
    look_at(201, 202, 208)
    assert killed == [actor, actor]
    assert len(told) == 2
    assert "did not answer for 5 s" in told[0]


def test_a_message_says_once_that_a_server_does_not_answer_long_before_it_is_killed(
    killed: Killed, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, told = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(ray, "wait", lambda refs, timeout: ([r for r in refs if r == 0], []))
    monkeypatch.setattr(ray, "get", lambda ref: {})
    asked = iter(range(100))
    actor: Any = SimpleNamespace(heartbeats=SimpleNamespace(remote=lambda: next(asked)))
    server = RemoteServer(actor, ("setup",), cluster=ClusterSection(), notify=told.append)
    for now[0] in (0, 1, 2, 20, 31):
        server.look()
    assert told == [], "it was asked again 29 s ago"
    for now[0] in (33, 34, 200):
        server.look()
    (line,) = told
    assert line.startswith(
        "the server's process has not answered for 30 s; after 300 s it is killed"
    )
    assert killed == []


def test_a_server_that_dies_when_it_is_polled_is_waited_for(
    killed: Killed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(ref: Any) -> None:
        raise ActorUnavailableError("it has died", None)

    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(ray, "wait", lambda refs, timeout: (refs, []))
    monkeypatch.setattr(ray, "get", die)
    actor: Any = SimpleNamespace(heartbeats=SimpleNamespace(remote=lambda: "a reference"))
    server = RemoteServer(actor, ("setup",), cluster=ClusterSection(stall_limit_s=5.0))
    for _ in range(20):
        now[0] += 10.0
        server.look()
    assert killed == []


def test_a_server_that_stalls_before_it_was_first_polled_is_killed_after_the_limit(
    killed: Killed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process was stopped in the first round."""
    now, answers = [0.0], {}
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(ray, "wait", lambda refs, timeout: ([r for r in refs if r in answers], []))
    monkeypatch.setattr(ray, "get", lambda ref: answers[ref])
    actor: Any = SimpleNamespace(
        heartbeats=SimpleNamespace(remote=lambda: "never answered"),
        start=SimpleNamespace(remote=lambda setup: "built"),
    )
    server = RemoteServer(actor, ("setup",), cluster=ClusterSection(stall_limit_s=5.0))
    server.build()
    for second in (1.0, 50.0, 99.0):
        now[0] = second
        server.look()
    answers["built"] = 1
    for second, kills in ((100.0, 0), (104.0, 0), (106.0, 1)):
        now[0] = second
        server.look()
        assert len(killed) == kills
