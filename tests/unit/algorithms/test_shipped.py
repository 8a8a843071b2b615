"""Each algorithm that comes with simfl has a scenario."""

from __future__ import annotations

from pathlib import Path

import pytest

import simfl
import simfl.errors
from simfl.algorithms import Algorithm

ROOT = Path(__file__).parents[3]
CONFIGS = sorted((ROOT / "configs" / "algorithms").glob("*.yaml"))
ADAPTERS = sorted((ROOT / "configs" / "llm").glob("*.yaml"))
NAMES = sorted(n for n, c in Algorithm.registry.items() if c.__module__.startswith("simfl."))


def test_each_has_a_scenario() -> None:
    named = {type(simfl.load_scenario(path).algorithm).name for path in [*CONFIGS, *ADAPTERS]}
    assert named == set(NAMES)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_scenario_says_what_it_shows_and_runs(path: Path, tmp_path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len([line for line in lines if line.startswith("# ")]) >= 3
    short = simfl.load_scenario(
        path, overrides=["rounds=2", "client.epochs=1", "evaluation.every=1"]
    )
    result = simfl.run(short, out=tmp_path / "out", backend="inline")
    assert result.history[-1]["loss"] < 10.0
