"""The cluster of ``simfl up``: which runs join it, and what is written about it."""

from __future__ import annotations

import json
import os
import platform
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from simfl.cluster import standing
from simfl.cluster.environment import own_environment
from simfl.cluster.processes import gcs_addresses, started_at
from simfl.cluster.session import find_standing
from simfl.errors import ClusterError, InputError


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path / "simfl" / f"cluster-{platform.node()}.json"


def test_a_run_joins_a_cluster_that_was_started_in_the_same_environment(file: Path) -> None:
    assert find_standing() is None
    standing.write("127.0.0.1:1", own_environment())
    assert (up := find_standing()) is not None
    assert up.address == "127.0.0.1:1"
    standing.forget()
    assert find_standing() is None


def test_what_scikit_learn_sets_at_import_makes_no_difference(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    standing.write("127.0.0.1:1", own_environment())
    for name in names:
        monkeypatch.setenv(name, "TRUE")
    assert find_standing() is not None


def test_only_this_user_reads_the_file_and_it_has_no_value_of_a_variable(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "sesame")
    standing.write("127.0.0.1:1", own_environment())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert "sesame" not in file.read_text()
    assert "SECRET" in json.loads(file.read_text())["environment"]


@pytest.mark.parametrize(("name", "value"), [("HF_HOME", "/data"), ("PATH", None)])
def test_a_run_with_another_variable_starts_its_own(
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str | None,
) -> None:
    standing.write("127.0.0.1:1", own_environment())
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    assert find_standing() is None
    assert f"another value of {name} than the one of 'simfl up'" in capsys.readouterr().err


def test_another_terminal_makes_no_difference(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standing.write("127.0.0.1:1", own_environment())
    for name in ("COLUMNS", "SSH_TTY", "TERM", "PWD", "_"):
        monkeypatch.setenv(name, "another")
    assert find_standing() is not None


def test_a_run_of_changed_code_starts_its_own(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    standing.write("127.0.0.1:1", own_environment())
    monkeypatch.setattr(standing.sys, "version", "another")
    assert find_standing() is None
    assert "another version of simfl, of Python" in capsys.readouterr().err


def test_what_a_dead_process_has_written_is_ignored(file: Path) -> None:
    standing.write("127.0.0.1:1", own_environment())
    written = json.loads(file.read_text())
    assert written["started"] == started_at(os.getpid())
    gone = {"pid": 2**22 + 1}
    for change in (gone, gone | {"started": ""}, {"started": "1"}, {"unknown": 1}):
        file.write_text(json.dumps(written | change))
        assert standing.find() is None
    file.write_text("[")
    assert standing.find() is None


def test_one_cluster_at_a_time(file: Path) -> None:
    with pytest.raises(InputError, match="no cluster is up; 'simfl up' starts one"):
        standing.stop()
    standing.write("127.0.0.1:1", own_environment())
    for up in (standing.start, lambda: standing.write("127.0.0.1:2", {})):  # or both at once
        with pytest.raises(InputError, match=r"is up already, at 127.0.0.1:1; 'simfl down' ends"):
            up()


def test_runs_look_for_free_cpus_one_after_another(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the first one's actors have theirs; also if it dies."""
    standing.write("127.0.0.1:1", own_environment())
    first = standing.take_turn()
    assert first is not None
    monkeypatch.setattr(standing, "_TURN_S", 0.0)
    assert standing.take_turn() is None
    first.close()
    with standing.take_turn() or pytest.fail("it is not free"):
        code = "from simfl.cluster import standing; standing._TURN_S = 0; standing.take_turn().name"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "'NoneType' object has no attribute 'name'" in done.stderr
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    with standing.take_turn() or pytest.fail("it is kept by a process that has ended"):
        pass


def test_there_is_none_where_processes_cannot_be_told_apart(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(InputError, match="'simfl up' is for Linux"):
        standing.start()


@pytest.mark.slow
@pytest.mark.ray
def test_a_cluster_that_runs_could_not_find_is_refused_and_leaves_nothing(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "simfl").write_text("no folder")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(ClusterError, match=r"cannot write .*: File exists; set XDG_CACHE_HOME to"):
        standing.start()
    assert [path.name for path in tmp_path.iterdir()] == ["simfl"]


@pytest.mark.slow
@pytest.mark.ray
def test_runs_join_the_cluster_from_up_to_down(file: Path, tmp_path: Path) -> None:
    def simfl(*arguments: str, **variables: str) -> str:
        command = [sys.executable, "-m", "simfl", *arguments]
        environment = os.environ | variables
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        return done.stdout + done.stderr

    def losses(name: str, *options: str, **variables: str) -> tuple[str, list[float]]:
        out = tmp_path / name
        said = simfl(
            *("run", "quickstart", "--set", "rounds=2", "--out", str(out), "--quiet"),
            *options,
            **variables,
        )
        lines = (out / "metrics.jsonl").read_text().splitlines()
        return said, [json.loads(line)["train_loss"] for line in lines]

    simfl("up")
    up = standing.find()
    assert up is not None
    try:
        expected = losses("inline", "--backend", "inline")[1]
        for name in ("first", "second"):
            said, seen = losses(name)
            assert "own cluster" not in said
            assert seen == expected
        said, seen = losses("third", OTHER="1")
        assert "another value of OTHER" in said
        assert seen == expected
        assert up.address in gcs_addresses()
    finally:
        simfl("down")
    assert up.address not in gcs_addresses()
    assert standing.find() is None
