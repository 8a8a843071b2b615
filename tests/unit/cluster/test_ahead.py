"""The cluster that another process starts while a run imports torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from simfl.cluster import ahead, standing
from simfl.cluster.processes import ProcessTree, cpus_of_this_machine, started_at
from simfl.errors import InputError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is started on Linux only")

WAITS = "import sys; print('127.0.0.1:1', flush=True); sys.stdin.read()"
TYPO = """
import subprocess, sys, simfl
from simfl.cluster import ahead
keeper = []
start = subprocess.Popen
class Popen(start):
    def __init__(self, command, **options):
        super().__init__(command, **options)
        if command[0] == sys.executable:
            keeper.append(self.pid)
ahead.subprocess.Popen = Popen
try:
    simfl.run({})
except simfl.errors.InputError as error:
    print(*keeper, str(error).splitlines()[0])
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of temporary files."""
    for name in ("RAY_ADDRESS", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    place = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(ahead, "has_imported_ray", True)
    monkeypatch.setattr(ahead, "is_in_session", lambda: False)
    return place


@pytest.fixture
def pids(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Have the keeper only wait for the end of its stdin; return what was started."""
    started: list[int] = []
    popen = subprocess.Popen

    class Popen(popen):  # type: ignore[type-arg, misc, valid-type]
        def __init__(self, command: list[str], **options: object) -> None:
            is_keeper = standing.KEEPER in command
            super().__init__([sys.executable, "-c", WAITS] if is_keeper else command, **options)
            if is_keeper:
                started.append(self.pid)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    yield started
    ProcessTree(started).kill()


def test_a_run_takes_it_if_it_counts_as_many_cpus(folder: Path, pids: list[int]) -> None:
    with ahead.starting_ahead("ray", None):
        own = ahead.take(cpus_of_this_machine())
        assert own is not None
        assert own.wait() == "127.0.0.1:1"
        assert started_at(pids[0])
        assert ahead.take(cpus_of_this_machine()) is None
        own.stop()
    assert not started_at(pids[0])
    assert not list(folder.iterdir())


@pytest.mark.parametrize("num_cpus", [None, 1000])
def test_it_is_ended_if_the_run_needs_another(
    folder: Path, pids: list[int], num_cpus: int | None
) -> None:
    with ahead.starting_ahead("ray", None):
        assert started_at(pids[0])
        assert ahead.take(num_cpus) is None
        assert not started_at(pids[0])
    assert not list(folder.iterdir())


def test_it_is_ended_if_the_run_does_not_come_that_far(folder: Path, pids: list[int]) -> None:
    with pytest.raises(InputError), ahead.starting_ahead("ray", "local"):
        raise InputError("a typo")
    assert not started_at(pids[0])
    assert not list(folder.iterdir())


@pytest.mark.parametrize(("backend", "address"), [("inline", None), ("ray", "10.0.0.5:6379")])
def test_it_is_not_started_for_a_run_that_has_another_place(
    folder: Path, pids: list[int], backend: str, address: str | None
) -> None:
    with ahead.starting_ahead(backend, address):
        assert not pids


def test_a_keeper_that_fails_has_no_address(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "KEEPER", "simfl.no_such_module")
    with ahead.starting_ahead("ray", None):
        own = ahead.take(cpus_of_this_machine())
        assert own is not None
        assert own.wait() is None
        own.kill()
    assert not list(folder.iterdir())


@pytest.mark.ray
def test_a_typo_leaves_no_process_and_no_file(folder: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(folder)}
    said = subprocess.check_output([sys.executable, "-c", TYPO], env=environment, text=True)
    pid, _, message = said.partition(" ")
    assert "rounds: is missing" in message
    assert not started_at(int(pid))
    assert not list(folder.iterdir())


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_that_needs_another_cluster_has_the_same_numbers(tmp_path: Path) -> None:
    def run(name: str, *overrides: str, backend: str = "ray") -> str:
        command = [sys.executable, "-m", "simfl", "run", "quickstart", "--backend", backend]
        sets = [word for each in ("rounds=2", *overrides) for word in ("--set", each)]
        subprocess.run([*command, "--out", str(tmp_path / name), *sets], check=True)
        return (tmp_path / name / "weights.safetensors").read_bytes().hex()

    expected = run("inline", backend="inline")
    assert run("usual") == expected
    assert run("other", "cluster.object_store_memory=200000000") == expected


def test_an_interrupt_waits_for_the_end_of_an_import() -> None:
    imported = []

    def interrupted() -> None:
        with ahead.importing():
            signal.raise_signal(signal.SIGINT)
            imported.append("all")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert imported == ["all"]
