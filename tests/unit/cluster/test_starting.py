"""The first start of actors; deaths in it are in the integration tests."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from ray.exceptions import ActorUnavailableError

from simfl.cluster import starting
from simfl.cluster.launch import Worker
from simfl.cluster.pool import ActorGroup
from simfl.cluster.survey import describe_room
from simfl.engine import DeviceUse
from simfl.errors import ClusterError
from simfl.messages import Chunk
from simfl.sampling import LocalWork, UniformInt
from simfl.sections import ClusterSection


def test_an_actor_that_fails_at_once_each_time_is_given_up_when_time_is_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where the driver refuses what its actors ask of it."""
    failing = MagicMock(side_effect=ActorUnavailableError("refused", b"0" * 16))
    monkeypatch.setattr(starting.ray, "get", failing)
    with pytest.raises(ClusterError, match="starting client-1 again"):
        starting._await_process(MagicMock(), "client-1", deadline=time.monotonic())


def test_the_user_is_notified_once_of_actors_that_do_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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
            cluster=ClusterSection(max_retries=0, start_timeout_s=100.0),
            notify=told.append,
        )
    assert told == [["b"]]
    assert now == [100.0]


def test_free_room_is_described_with_the_jobs_that_use_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def actor(job: str, namespace: str, **needs: float) -> SimpleNamespace:
        return SimpleNamespace(job_id=job, ray_namespace=namespace, required_resources=needs)

    there = [actor("01", "mine", CPU=1.0), actor("02", "another", CPU=2.0), actor("03", "none")]
    there.append(actor("02", "another", CPU=1.0, GPU=0.5))
    # Asked without an address, Ray answers for another cluster on this machine.
    jobs = {"127.0.0.1:1": there}
    monkeypatch.setattr("ray.util.state.list_actors", lambda address=None, **_: jobs[address])
    here = SimpleNamespace(gcs_address="127.0.0.1:1")
    monkeypatch.setattr(starting.ray, "get_runtime_context", lambda: here)
    monkeypatch.setattr(starting.ray, "cluster_resources", lambda: {"CPU": 4.0, "GPU": 1.0})
    monkeypatch.setattr(starting.ray, "available_resources", lambda: {"GPU": 0.5})
    free, taken = describe_room("mine").split("; ")
    assert free == "free in the cluster: 0 of 4 CPU, 0.5 of 1 GPU"
    assert taken == "other jobs use: job 02 (another) 3 CPU, 0.5 GPU"


@pytest.mark.parametrize(
    ("work", "steps"), [(LocalWork(), ()), (LocalWork(steps=UniformInt(high=5)), (1, 1))]
)
def test_a_group_gets_as_many_actors_on_a_gpu_as_its_memory_holds(
    monkeypatch: pytest.MonkeyPatch, work: LocalWork, steps: tuple[int, ...]
) -> None:
    """The first actor trains the two clients with the most examples, in 10 of 80 bytes."""
    monkeypatch.setattr(starting.ray, "wait", lambda refs, **_: (refs[:1], refs[1:]))
    monkeypatch.setattr(starting.ray, "get", lambda ref: None)
    probed, limits, workers = [], [], []
    probe = SimpleNamespace(remote=lambda chunk, broadcast: probed.append((chunk, broadcast)))
    first, second = (
        Worker(SimpleNamespace(probe=probe), f"client-{number}", 0, setup=None) for number in (0, 1)
    )
    group = ActorGroup(num_gpus=0.1, stack=2)
    setup: Any = SimpleNamespace(
        client=SimpleNamespace(work=work),
        cluster=ClusterSection(),
        groups=(group,),
        group_of=np.zeros(3, int),
        dataset=SimpleNamespace(num_train_examples=lambda ids: np.array([5, 9, 7])[ids]),
    )
    server: Any = SimpleNamespace(
        actor=None,
        build=lambda: "building",
        first=lambda: SimpleNamespace(broadcast="weights"),
        get=lambda ref: DeviceUse(used=10, total=80),
    )
    fleet: Any = SimpleNamespace(
        launch=lambda: [first],
        is_fitted=lambda group: True,
        is_enough=lambda ready: True,
        limit=lambda *limit: limits.append(limit),
        fill=lambda launched: [second],
    )
    pool: Any = SimpleNamespace(
        members=workers,
        workers=workers,
        start=lambda worker: f"starting {worker.label}",
        join=lambda joining, late: workers.extend(joining),
    )
    starting.Starter(setup, server, fleet, pool, notify=print).start(fleet.launch())
    assert probed == [(Chunk(1, 0, (1, 2), 2, 0, steps), "weights")]
    assert limits == [(0, 7)], "seven times 10 bytes, and a tenth to spare"
    assert workers == [first, second]
