"""Machines for tests: each has its own network, process tree and mounts; a wire joins them.

They are namespaces, so root is needed, and ``ip`` of iproute2. Whatever runs in a machine ends with
it: its first process takes all others along.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NAMESPACES = ["--net", "--pid", "--mount"]
TOKEN = "0123456789abcdef0123456789abcdef"
NOTICE = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_timeout_ms": 700,
    "health_check_failure_threshold": 3,
}
"""A node that does not answer counts as dead after some 3 s: 3 checks of 700 ms, 300 ms apart."""


def why_there_are_none() -> str | None:
    """Return the reason why machines cannot be made here; None: they can."""
    if sys.platform != "linux" or not shutil.which("ip") or not shutil.which("nsenter"):
        return "machines take Linux with iproute2 and util-linux"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "machines take the right to use /dev/net/tun"
    tried = subprocess.run(["unshare", *NAMESPACES, "--fork", "true"], capture_output=True)
    return None if tried.returncode == 0 else "machines take the right to make namespaces"


class Machine:
    """A machine with an address.

    Args:
        address: on the wire.
        hidden: a folder that is empty there.
    """

    def __init__(self, address: str, *, hidden: Path | None = None) -> None:
        self.address = address
        # As init does: wait for whatever process has lost its parent.
        init = "echo; trap : TERM; while :; do sleep 1000 & wait; done"
        options = [*NAMESPACES, "--fork", "--kill-child", "--mount-proc"]
        self._process = subprocess.Popen(
            ["unshare", *options, "sh", "-c", init], stdout=subprocess.PIPE
        )
        assert self._process.stdout
        self._process.stdout.readline()
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        self.init = children.read_text().strip()
        """The process id of its first process, seen from here."""
        self.sh("ip link set lo up")
        if hidden:
            self.sh(f"mount -t tmpfs none {hidden}")

    def popen(self, *command: object, **options: Any) -> subprocess.Popen[str]:
        """Start a command on the machine, in the folder one is in."""
        enter = ["nsenter", "--target", self.init, *NAMESPACES, f"--wd={os.getcwd()}"]
        return subprocess.Popen([*enter, *map(str, command)], text=True, **options)

    def sh(self, script: str) -> str:
        """Run a script of the shell on the machine; return what it prints."""
        with self.popen("sh", "-ec", script, stdout=subprocess.PIPE) as process:
            output, _ = process.communicate()
        assert process.returncode == 0, script
        return output

    def end(self) -> None:
        """End it, and all that runs there."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()


class Wire:
    """What joins two machines; see ``wire.py``."""

    def __init__(self, near: Machine, far: Machine) -> None:
        names = [f"near{os.getpid()}", f"far{os.getpid()}"]
        self._near, self._device = near, names[0]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen([sys.executable, HERE / "wire.py", *names], **pipes)
        assert self._process.stdout
        self._process.stdout.readline()
        for machine, name in zip((near, far), names, strict=True):
            subprocess.run(["ip", "link", "set", name, "netns", machine.init], check=True)
            # Ray finds its own address by asking which way it would go to 8.8.8.8.
            machine.sh(
                f"ip address add {machine.address}/24 dev {name}; ip link set {name} up; "
                f"ip route add 8.8.8.8 dev {name}"
            )

    def set(self, *lines: str) -> None:
        """Have the wire obey, and wait until it does."""
        assert self._process.stdin
        assert self._process.stdout
        for line in lines:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
            self._process.stdout.readline()

    def num_bytes(self) -> tuple[int, int]:
        """Return how many bytes have gone to the far end, and how many have come from there."""
        (link,) = json.loads(self._near.sh(f"ip -statistics -json link show {self._device}"))
        return link["stats64"]["tx"]["bytes"], link["stats64"]["rx"]["bytes"]

    def end(self) -> None:
        """Take it away."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


class RayOnTwoMachines:
    """A head and a node of a Ray cluster, each on its own machine.

    Args:
        folder: for Ray's files; a path of few characters, as Ray has sockets there.
        head_cpus: CPUs of the head, on which the driver runs.
        node_cpus: of the node.
        hidden: a folder that is empty on the node.
    """

    def __init__(
        self, folder: Path, *, head_cpus: int, node_cpus: int, hidden: Path | None = None
    ) -> None:
        self._folder = folder
        self._node_cpus = node_cpus
        self.head, self.node = Machine("10.0.0.1"), Machine("10.0.0.2", hidden=hidden)
        self.wire = Wire(self.head, self.node)
        self.address = f"{self.head.address}:6379"
        self.is_lost = False
        """Whether Ray has given the node up."""
        options = ["--head", "--port=6379", f"--num-cpus={head_cpus}", "--include-dashboard=false"]
        head = self._start(self.head, *options, f"--system-config={json.dumps(NOTICE)}")
        self._running = [head, self._start_node()]
        for process in self._running:
            process.until_up()

    def repair(self) -> None:
        """Heal the wire; let the node rejoin if it was given up."""
        self.wire.set("heal", "delay 0", "loss 0")
        if self.is_lost:
            self.node.sh("kill -9 -1")  # all but its first process
            self._running.pop().process.wait()
            self._running.append(self._start_node())
            self._running[-1].until_up()
            self.is_lost = False

    def simfl(self, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        """Start ``simfl`` on the head, with one output for all that it says."""
        command = [sys.executable, "-m", "simfl", *arguments]
        both: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return self.head.popen(*command, env=_environment(), **both | options)

    def end(self) -> None:
        """End all of it."""
        for part in (self.head, self.node, self.wire):
            part.end()
        for started in self._running:
            started.process.wait()

    def _start_node(self) -> _RayStart:
        options = [f"--address={self.address}", f"--num-cpus={self._node_cpus}"]
        return self._start(self.node, *options)

    def _start(self, machine: Machine, *options: str) -> _RayStart:
        return _RayStart(machine, Path(tempfile.mkdtemp(dir=self._folder)), *options)


class _RayStart:
    """``ray start`` on a machine."""

    def __init__(self, machine: Machine, folder: Path, *options: str) -> None:
        self._log = folder / "log"
        command = [Path(sys.executable).with_name("ray"), "start", "--block", *options]
        command += [f"--node-ip-address={machine.address}", f"--temp-dir={folder}"]
        command += ["--object-store-memory=100000000"]
        with self._log.open("w") as output:
            both: dict[str, Any] = {"stdout": output, "stderr": subprocess.STDOUT}
            self.process = machine.popen(*command, env=_environment(), **both)

    def until_up(self) -> None:
        while "Ray runtime started" not in self._log.read_text():
            assert self.process.poll() is None, self._log.read_text()
            time.sleep(0.05)


def _environment() -> dict[str, str]:
    root = str(HERE.parents[1])
    return os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_IGNORE_UNHANDLED_ERRORS": "1",
        "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
