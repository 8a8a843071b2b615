"""Every shipped scenario runs, shortened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import simfl

FOLDER = Path(__file__).parents[2] / "configs"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
ALGORITHMS = sorted((FOLDER / "algorithms").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_scenario_learns(path: Path, tmp_path: Path) -> None:
    scenario = simfl.load_scenario(path, overrides=["rounds=8", "evaluation.every=1", "sweep=null"])
    result = simfl.run(scenario, out=tmp_path / "out", backend="inline")
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    assert result.history[-1]["accuracy"] > 0.0


@pytest.mark.parametrize("path", ALGORITHMS, ids=lambda path: path.stem)
def test_the_scenario_of_an_algorithm_runs(path: Path, tmp_path: Path) -> None:
    scenario = simfl.load_scenario(path, overrides=["rounds=1", "evaluation.every=1"])
    assert scenario.algorithm.name == path.stem
    result = simfl.run(scenario, out=tmp_path / "out", backend="inline")
    assert np.isfinite(result.history[-1]["loss"])


def test_each_begins_with_a_comment_that_says_what_it_shows() -> None:
    assert len(CONFIGS) >= 10
    for path in CONFIGS + ALGORITHMS:
        lines = path.read_text().splitlines()
        assert lines[0].startswith("# "), path
        assert len([line for line in lines if line.startswith("# ")]) >= 3, path
