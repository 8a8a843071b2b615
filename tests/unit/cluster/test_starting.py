"""The first start of actors; deaths in it are in the integration tests."""

from __future__ import annotations

import time
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from ray.exceptions import ActorUnavailableError

from simfl.cluster import starting
from simfl.cluster.survey import describe_room
from simfl.errors import ClusterError


def test_an_actor_that_fails_at_once_each_time_is_given_up_when_time_is_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where the driver refuses what its actors ask of it."""
    failing = MagicMock(side_effect=ActorUnavailableError("refused", b"0" * 16))
    monkeypatch.setattr(starting.ray, "get", failing)
    with pytest.raises(ClusterError, match="starting client-1 again"):
        starting._await_process(MagicMock(), "client-1", deadline=time.monotonic())


def test_who_is_waited_for_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two actors; one has room at once, the other never."""
    now, told = [0.0], []
    monkeypatch.setattr(starting.time, "monotonic", lambda: now[0])

    def wait(refs: list[str], num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        if "ref of a" in refs:
            return ["ref of a"], []
        now[0] += timeout
        return [], refs

    monkeypatch.setattr(starting.ray, "wait", wait)
    monkeypatch.setattr(starting.ray, "get", lambda ref: None)
    with pytest.raises(ClusterError, match="starting b: no answer in time"):
        starting.start_all(
            {"a": None, "b": None},
            lambda label: f"ref of {label}",
            is_enough=lambda labels: len(labels) == 2,
            max_retries=0,
            timeout_s=100.0,
            notify=told.append,
        )
    assert told == [["b"]]
    assert now == [100.0]


def test_room_is_told_with_who_has_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    def actor(job: str, namespace: str, **needs: float) -> SimpleNamespace:
        return SimpleNamespace(job_id=job, ray_namespace=namespace, required_resources=needs)

    there = [actor("01", "mine", CPU=1.0), actor("02", "another", CPU=2.0), actor("03", "none")]
    there.append(actor("02", "another", CPU=1.0, GPU=0.5))
    monkeypatch.setattr("ray.util.state.list_actors", lambda **_: there)
    monkeypatch.setattr(starting.ray, "cluster_resources", lambda: {"CPU": 4.0, "GPU": 1.0})
    monkeypatch.setattr(starting.ray, "available_resources", lambda: {"GPU": 0.5})
    free, taken = describe_room("mine").split("; ")
    assert free == "free in the cluster: 0 of 4 CPU, 0.5 of 1 GPU"
    assert taken == "other jobs use: job 02 (another) 3 CPU, 0.5 GPU"
