"""What ``--profile`` writes of a run on Ray."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

import simfl

pytestmark = pytest.mark.ray

SCENARIO: dict[str, Any] = {
    "rounds": 3,
    "data": {"source": "digits", "partition": {"kind": "iid", "clients": 4}},
    "model": {"kind": "mlp"},
    "client": {"epochs": 5, "batch_size": 4, "optimizer": {"lrate": 0.1}},
    "cluster": {"actors": 2, "chunk_size": 2},
}


@pytest.mark.slow
def test_a_profile_covers_every_process_and_rays_timeline(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simfl.cluster.series.BRIEF_S", 0.0)  # each round has calls of its own
    began_us = time.time() * 1e6  # other runs on the same cluster are in its timeline too
    simfl.run(SCENARIO, out=tmp_path / "run", profile=True)
    profile = tmp_path / "run" / "profile"
    pages = {path.stem: path.read_text(encoding="utf-8") for path in profile.glob("*.html")}
    assert sorted(pages) == ["client-0", "client-1", "driver", "server"]
    assert "run_rounds" in pages["driver"]
    assert "main_loop" in pages["client-0"] + pages["client-1"]  # Ray's, in which actors live
    assert "simfl/client/" in pages["client-0"] + pages["client-1"]
    assert "simfl/client/" not in pages["driver"] + pages["server"]
    events = json.loads((profile / "timeline.json").read_text())
    names = [event["name"] for event in events if event["ts"] > began_us]
    methods = ("train_chunk", "end_round", "end_profile")
    assert [names.count(method) for method in methods] == [6, 3, 3]
