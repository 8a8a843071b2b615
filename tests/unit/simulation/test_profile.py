"""A profile is written on request, and shows what the process did."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import simfl
from simfl.errors import MissingExtraError

SCENARIO: dict[str, Any] = {
    "rounds": 2,
    "data": {"source": "digits", "partition": {"kind": "iid", "clients": 4}},
    "model": {"kind": "mlp"},
    "client": {"epochs": 5, "batch_size": 4, "optimizer": {"lrate": 0.1}},
}


def test_a_profile_of_one_process_shows_where_clients_are_trained(tmp_path: Path) -> None:
    simfl.run(SCENARIO, out=tmp_path / "run", backend="inline", profile=True)
    assert [path.name for path in (tmp_path / "run" / "profile").iterdir()] == ["driver.html"]
    page = (tmp_path / "run" / "profile" / "driver.html").read_text(encoding="utf-8")
    assert "train_chunk" in page


def test_there_is_no_profile_without_the_option(tmp_path: Path) -> None:
    simfl.run(SCENARIO, out=tmp_path / "run", backend="inline")
    assert not (tmp_path / "run" / "profile").exists()


def test_a_run_that_fails_leaves_its_profile_too(tmp_path: Path) -> None:
    diverges = SCENARIO | {"client": {"optimizer": {"lrate": 1e38}}}
    with pytest.raises(simfl.errors.RunError):
        simfl.run(diverges, out=tmp_path / "run", backend="inline", profile=True)
    assert (tmp_path / "run" / "profile" / "driver.html").exists()


def test_without_the_profiler_nothing_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyinstrument", None)
    with pytest.raises(MissingExtraError, match=r"--profile .*pip install 'simfl\[profile\]'"):
        simfl.run(SCENARIO, out=tmp_path / "run", backend="inline", profile=True)
    assert not (tmp_path / "run").exists()
