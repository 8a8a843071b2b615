"""Python processes that start at once: forks of one that has imported simfl and torch.

A cold start takes some two seconds, most of them for torch. This is for tests of what a process
does and leaves, and not of its start: each has a process of its own all the same, which ends as
any other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CLOSED = "closed"
"""In place of a file: the end of a pipe whose reader has left."""

COMMAND_LINE = "from simfl.cli.main import main\nmain()\n"

# The child leaves the loop, and so ends as a script does, with its exit handlers and last flush.
_SERVER = f"""
import json, os, sys, warnings
import simfl.cli.main, simfl.report.report, simfl.simulation

for line in sys.stdin:
    job = json.loads(line)
    if not (child := os.fork()):
        break
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
else:
    sys.exit()
os.chdir(job["folder"])
for number, file in enumerate(job["files"]):
    if file == {CLOSED!r}:
        reader, opened = os.pipe()
        os.close(reader)
    else:
        opened = os.open(file, os.O_RDWR | os.O_CREAT)
    os.dup2(opened, number)
    os.close(opened)
sys.stdin = open(0, closefd=False)
sys.stdout = open(1, "w", closefd=False)
sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)
warnings.resetwarnings()
warnings.simplefilter(job["warnings"])
sys.argv, sys.path[0] = job["arguments"], job["folder"]
__file__ = job["arguments"][0]
exec(compile(job["code"], __file__, "exec"))
"""


class WarmPython:
    """Runs code in a fork of a process that is started for the first of it."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None

    def run(
        self,
        code: str,
        *arguments: object,
        folder: Path | None = None,
        warnings: str = "default",
        terminal: str | None = None,
        stdout: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run code as a script, and wait for its end.

        Args:
            code: of the script.
            arguments: its ``sys.argv``, beginning with its name.
            folder: the current one, and that of the script; this process's by default.
            warnings: the action for all of them.
            terminal: the device for input and outputs, which are empty in the result then.
            stdout: the file for the output, or ``CLOSED``.
        """
        folder = folder or Path.cwd()
        with tempfile.TemporaryDirectory() as made:
            outputs = [Path(made, "out"), Path(made, "err")]
            for path in outputs:
                path.touch()
            files = [os.devnull, stdout or str(outputs[0]), str(outputs[1])]
            job = {
                "code": code,
                "arguments": list(map(str, arguments)),
                "folder": str(folder),
                "files": [terminal] * 3 if terminal else files,
                "warnings": warnings,
            }
            status = self._ask(json.dumps(job))
            return subprocess.CompletedProcess(
                arguments, status, *(path.read_text(errors="replace") for path in outputs)
            )

    def simfl(self, *arguments: object, **options: str) -> subprocess.CompletedProcess[str]:
        """Run the command line; see ``run``."""
        return self.run(COMMAND_LINE, "simfl", *arguments, **options)  # type: ignore[arg-type]

    def close(self) -> None:
        """End the process that is forked."""
        if self._server is not None:
            self._server.communicate()

    def _ask(self, job: str) -> int:
        if self._server is None:
            # So that a run does not start its process again, to have huge pages.
            environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
            self._server = subprocess.Popen(
                [sys.executable, "-c", _SERVER],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(f"{job}\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())
