"""Workers that are forked: they are what Ray would have started, with torch imported."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simfl.cluster.forking import ForkServer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")

WORKER = """
import ctypes, json, os, random, sys, threading
import numpy

def arenas():  # that malloc has while six threads use it, by its own account
    libc, meet = ctypes.CDLL(None), threading.Barrier(7)
    libc.fopen.restype = ctypes.c_void_p
    def allocate():
        libc.malloc(ctypes.c_size_t(1000))
        meet.wait()
        meet.wait()
    threads = [threading.Thread(target=allocate) for _ in range(6)]
    for thread in threads:
        thread.start()
    meet.wait()
    file = ctypes.c_void_p(libc.fopen(b"arenas.xml", b"w"))
    libc.malloc_info(0, file)
    libc.fclose(file)
    meet.wait()
    return open("arenas.xml").read().count("<heap ")

print(json.dumps({
    "has_torch": "torch" in sys.modules,
    "has_ray": "ray" in sys.modules,
    "name": __name__,
    "arguments": sys.argv[1:],
    "first": sys.path[0],
    "executable": sys.executable,
    "folder": os.getcwd(),
    "note": os.environ.get("NOTE"),
    "is_leader": os.getpgid(0) == os.getpid(),
    "drawn": [random.random(), numpy.random.rand()],
    "arenas": arenas(),
}))
sys.stdout.flush()
"""

AGENT = """
import sys
print("ray" in sys.modules, __name__, *sys.argv[1:])
sys.stdout.flush()
sys.exit(sys.stdin.read())
"""

KEEPER = """
import subprocess, sys
from pathlib import Path
from simfl.cluster.forking import ForkServer
server = ForkServer(is_bare=True)
if server.fork_agents():
    sys.exit()
with server.python(Path(sys.argv[2])):
    command = [sys.executable, "-u", sys.argv[1], "--id=1"]
    agent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
print(agent.stdout.readline().strip(), agent.poll(), flush=True)
if sys.argv[3:]:
    agent.kill()
    print(agent.stdout.read(), flush=True)  # until the agent has ended, too
agent.communicate()
server.stop()
"""


class Started:
    """A server, and the program that Ray starts instead of Python."""

    def __init__(self, folder: Path) -> None:
        self.server = ForkServer()
        self.worker = folder / "default_worker.py"
        self.worker.write_text(WORKER)
        with self.server.python(folder):
            self.python = sys.executable

    def run(self, *arguments: str, **variables: str) -> dict[str, Any]:
        """Run the worker, and return what it has printed."""
        # The program ends before the worker does; the pipe ends with both.
        command = [self.python, str(self.worker), *arguments]
        environment = {**os.environ, **self.alike, **variables}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, env=environment, cwd=self.worker.parent
        ) as process:
            assert process.stdout is not None
            seen: dict[str, Any] = json.loads(process.stdout.read())
        assert process.returncode == 0
        return seen

    @property
    def alike(self) -> dict[str, str]:
        """What ``connect`` sets for Ray's processes."""
        return {"GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")}


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    started = Started(tmp_path_factory.mktemp("f"))
    yield started
    started.server.stop()


def test_a_worker_is_forked_with_its_own_arguments_environment_and_streams(
    started: Started,
) -> None:
    assert started.python != sys.executable
    seen = started.run("--id=1", "a b", NOTE="ü")
    assert seen["has_torch"]
    assert not seen["has_ray"]
    assert seen["name"] == "__main__"
    assert seen["arguments"] == ["--id=1", "a b"]
    assert seen["note"] == "ü"
    assert seen["executable"] == sys.executable
    assert seen["first"] == seen["folder"] == str(started.worker.parent)
    assert seen["is_leader"]


def test_forked_workers_draw_different_numbers(started: Started) -> None:
    first, second = started.run()["drawn"], started.run()["drawn"]
    assert all(one != other for one, other in zip(first, second, strict=True))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="others have other allocators")
def test_a_worker_s_threads_share_what_they_free(started: Started) -> None:
    assert started.run()["arenas"] == 2
    assert started.run(OMP_NUM_THREADS="3")["arenas"] > 2  # as Python starts it


def test_a_worker_with_other_settings_of_its_libraries_is_started_as_usual(
    started: Started,
) -> None:
    assert not started.run(OMP_NUM_THREADS="3")["has_torch"]
    assert started.run(OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1"))["has_torch"]


def test_a_driver_that_has_imported_scikit_learn_meanwhile_has_its_workers_forked(
    started: Started,
) -> None:
    code = "import json, os, sklearn; print(json.dumps(dict(os.environ)))"
    environment = {key: os.environ[key] for key in os.environ if not key.startswith("KMP_")}
    there = json.loads(subprocess.check_output([sys.executable, "-c", code], env=environment))
    added = {key: there[key] for key in there.keys() - environment.keys()}
    assert "KMP_INIT_AT_FORK" in added
    assert started.run(**added)["has_torch"]


def test_ray_s_other_processes_are_started_as_usual(started: Started) -> None:
    code = "import sys; print('torch' in sys.modules, sys.executable)"
    seen = subprocess.check_output([started.python, "-c", code], text=True)
    assert seen.split() == ["False", sys.executable]


def test_without_the_server_workers_are_started_as_usual(tmp_path: Path) -> None:
    started = Started(tmp_path)
    started.server.stop()
    seen = started.run("--id=1")
    assert not seen["has_torch"]
    assert seen["arguments"] == ["--id=1"]


def keep_agent(folder: Path, *arguments: str, watches_a_pipe: bool = True) -> list[str]:
    """Start an agent as Ray does; return what it, and who has started it, have printed."""
    agent = folder / "dashboard" / "agent.py"
    agent.parent.mkdir(exist_ok=True)
    agent.write_text(AGENT)
    watches = {"RAY_enable_pipe_based_agent_to_parent_health_check": str(int(watches_a_pipe))}
    command = [sys.executable, "-c", KEEPER, str(agent), tempfile.mkdtemp(dir=folder), *arguments]
    return subprocess.check_output(command, text=True, env={**os.environ, **watches}).split()


def test_an_agent_that_watches_a_pipe_is_forked_and_what_ray_has_started_lasts_as_long(
    tmp_path: Path,
) -> None:
    assert keep_agent(tmp_path) == ["True", "__main__", "--id=1", "None"]
    assert keep_agent(tmp_path, watches_a_pipe=False) == ["False", "__main__", "--id=1", "None"]


def test_a_forked_agent_ends_if_what_ray_has_started_is_killed(tmp_path: Path) -> None:
    """Its pipe is still open then."""
    assert keep_agent(tmp_path, "kill") == ["True", "__main__", "--id=1", "None"]
