from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import simfl
from simfl.simulation.checkpoints import Checkpoints

SCENARIO: dict[str, Any] = {
    "rounds": 1,
    "data": {"source": "digits", "partition": {"kind": "iid", "clients": 2}},
    "model": {"kind": "logistic"},
    "client": {"optimizer": {"lrate": 0.1}},
}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "{here}/runs/a/checkpoints"),
        ("kept", "{here}/kept"),
        ("/elsewhere/kept", "/elsewhere/kept"),
        ("memory://bucket/a", "memory://bucket/a"),
    ],
)
def test_the_place_is_the_same_for_an_actor_in_another_folder(
    given: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scenario = simfl.load_scenario(SCENARIO | {"checkpoint": {"location": given}})
    checkpoints = Checkpoints(scenario, Path("runs/a"), notify=print)
    assert checkpoints.location == expected.format(here=tmp_path)
