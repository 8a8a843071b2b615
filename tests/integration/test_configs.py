"""Every shipped scenario runs, shortened."""

from __future__ import annotations

from pathlib import Path

import pytest

import simfl

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_scenario_learns(path: Path, tmp_path: Path) -> None:
    scenario = simfl.load_scenario(path, overrides=["rounds=8", "evaluation.every=1", "sweep=null"])
    result = simfl.run(scenario, out=tmp_path / "out", backend="inline")
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    assert result.history[-1]["accuracy"] > 0.0


def test_each_begins_with_a_comment_that_says_what_it_shows() -> None:
    assert len(CONFIGS) >= 10
    for path in CONFIGS:
        lines = path.read_text().splitlines()
        assert lines[0].startswith("# "), path
        assert len([line for line in lines if line.startswith("# ")]) >= 3, path
