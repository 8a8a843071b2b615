"""Dead and stopped processes are noticed, and a cluster's processes can be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from simfl.cluster.processes import (
    STOPPED_S,
    ProcessTree,
    ProcessWatch,
    children,
    gcs_addresses,
    vital_processes,
)
from simfl.errors import ClusterError

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux tells of these")

SLEEP = "import time; print(flush=True); time.sleep(600)"


class Sleeper:
    """A process that sleeps, under any name."""

    def __init__(self, name: str = "sleeper", *arguments: str, code: str = SLEEP) -> None:
        self._process = subprocess.Popen(
            [name, "-c", code, *arguments], executable=sys.executable, stdout=subprocess.PIPE
        )
        self.pid = self._process.pid
        self.line = self._process.stdout.readline()  # type: ignore[union-attr]

    def send(self, number: int) -> None:
        """Send a signal, and wait until it has been obeyed."""
        self._process.send_signal(number)
        if number in (signal.SIGSTOP, signal.SIGCONT):
            os.waitpid(self.pid, os.WUNTRACED if number == signal.SIGSTOP else os.WCONTINUED)
        else:
            self._process.wait()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def sleeper() -> Iterator[Sleeper]:
    one = Sleeper()
    yield one
    one.end()


def test_a_process_that_has_died_is_named(sleeper: Sleeper) -> None:
    watch = ProcessWatch({sleeper.pid: "the raylet"}, watches=False)
    assert watch.look(0.0) is None
    assert watch.is_well()
    sleeper.send(signal.SIGKILL)
    assert not watch.is_well()
    assert f"the raylet (process {sleeper.pid}) has died" in str(watch.look(1.0))


def test_a_stopped_process_is_given_time(sleeper: Sleeper) -> None:
    """Suspending all processes together does not end the run."""
    watch = ProcessWatch({sleeper.pid: "the raylet"}, watches=False)
    sleeper.send(signal.SIGSTOP)
    assert not watch.is_well()
    assert [watch.look(now) for now in (100.0, 100.0 + STOPPED_S)] == [None, None]
    sleeper.send(signal.SIGCONT)
    assert watch.look(200.0) is None
    sleeper.send(signal.SIGSTOP)
    assert watch.look(300.0) is None
    assert "has been stopped for 30 s" in str(watch.look(301.0 + STOPPED_S))


def test_a_fault_kills_the_tree_and_is_raised_on_request(sleeper: Sleeper) -> None:
    other = Sleeper()
    watch = ProcessWatch({sleeper.pid: "the raylet"}, ProcessTree([other.pid]))
    watch.require_all()
    sleeper.send(signal.SIGKILL)
    other.send(0)  # waits for its end
    with pytest.raises(ClusterError, match=r"has died.*simfl resume"):
        watch.require_all()
    watch.stop()
    other.end()


def test_a_tree_includes_orphans() -> None:
    before = children()
    code = (
        "import subprocess, time;"
        f"child = subprocess.Popen([{sys.executable!r}, '-c', 'import time; time.sleep(600)']);"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    parent = Sleeper(code=code)
    assert children() - before == {parent.pid}
    tree = ProcessTree([parent.pid])
    parent.send(signal.SIGKILL)
    child = Path(f"/proc/{int(parent.line)}")
    assert child.exists()
    tree.kill()
    while child.exists() and ") Z " not in (child / "stat").read_text():
        time.sleep(0.01)
    parent.end()


def test_rays_processes_are_found_by_their_session() -> None:
    addresses = {"raylet_socket_name": "/a/sockets/raylet", "session_dir": "/a"}
    raylet = Sleeper("/ray/raylet", "--raylet_socket_name=/a/sockets/raylet", "--gcs-address=h:1")
    other = Sleeper("/ray/raylet", "--raylet_socket_name=/a/sockets/raylet.1", "--gcs-address=h:2")
    service = Sleeper("/ray/gcs_server", "--session-dir=/a")
    assert vital_processes(addresses) == {
        raylet.pid: "Ray's raylet",
        service.pid: "Ray's control service",
    }
    assert {"h:1", "h:2"} <= gcs_addresses()
    for process in (raylet, other, service):
        process.end()


def last_words(code: str, folder: Path) -> str:
    """Return the message about a process that runs some code and is killed."""
    start = (
        "import os, sys; from pathlib import Path; from simfl.cluster.processes import LastWords"
    )
    lines = [start, "words = LastWords([Path(sys.argv[1])])", code, "os.kill(os.getpid(), 9)"]
    folder.mkdir()
    command = [sys.executable, "-c", "\n".join(lines), str(folder)]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False).stderr


def test_after_a_kill_a_message_is_printed_and_the_folder_removed(tmp_path: Path) -> None:
    """Each process has its own folder, since its shell removes it for some seconds."""
    one, two, three, four = (tmp_path / f"folder {number}" for number in range(4))
    assert "'simfl resume' continues from the last checkpoint" in last_words("", one)
    assert not one.exists()
    assert last_words("words.replace('the raylet\\nhas died')", two) == "the raylet has died\n"
    assert not two.exists()
    assert last_words("words.take_back()", three) == ""
    assert three.exists()
    assert last_words("sys.exit(1)", four) == ""
    assert four.exists()
