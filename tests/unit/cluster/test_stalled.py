"""Who is waited for is killed when its time is up, and named when that happens too often."""

from __future__ import annotations

import time
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError

from simfl.cluster.launch import Worker
from simfl.cluster.recovery import Attempts
from simfl.cluster.workers import ClientPool, _Running, _WorkLoop
from simfl.engine import ChunkScheduler
from simfl.errors import ClusterError
from simfl.messages import Chunk


def test_a_stalled_chunk_is_named_with_its_clients_and_the_time_it_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed: list[Any] = []
    monkeypatch.setattr(ray, "kill", lambda actor, no_restart: killed.append((actor, no_restart)))
    limits: dict[str, Any] = {"max_retries": 0, "stall_limit_s": 60.0, "start_timeout_s": 60.0}
    pool = ClientPool([Worker("the actor", "client-0", 0, setup="its setup")], "the data", **limits)
    chunk = Chunk(7, 0, (3, 8), 4)
    scheduler = ChunkScheduler([chunk], lanes=[0])
    loop = _WorkLoop(pool, scheduler, lambda actor, chunk: [], Attempts(max_retries=0))
    began = time.monotonic() - 100
    loop._running["a reference"] = running = _Running(0, chunk, ["a reference"], began)
    pool.kill_stalled(loop._oldest())
    pool.kill_stalled(loop._oldest())
    assert killed == [("the actor", False)], "killed once: the second time its time is not up"
    assert running.stalled_s is not None
    named = r"round 7, clients 3, 8 on client-0: not done after 100 s, .* cluster\.stall_limit_s"
    with pytest.raises(ClusterError, match=named):
        loop._lose("a reference", RayActorError())
