"""What is said of a driver that cannot say it itself, and the removal of what it leaves.

SIGKILL ends a process without a word, and so does Ray where a process of its own on this machine
has died. So a shell of a few hundred kilobytes waits for the end of a pipe.
"""

from __future__ import annotations

import atexit
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

__all__ = ["LastWords"]

_UNKNOWN = (
    "the run's process has ended without a word: it was killed, or a process of Ray's on this "
    "machine was; 'simfl resume' goes on from the last checkpoint"
)
_NOTHING = "nothing"
# What the driver has written last is said when the pipe ends. Ray's processes, which follow the
# driver, write to their folders meanwhile.
_SCRIPT = """
last=$1; shift
while IFS= read -r line; do last=$line; done
[ "$last" = nothing ] && exit
rm -rf -- "$@"
printf '%s\\n' "$last" >&2
exec 2>&-
for n in 1 2 3 4 5; do sleep 1; rm -rf -- "$@"; done
"""


class LastWords:
    """Says why this process has ended, once it has, and removes folders.

    Args:
        folders: removed where this process is ended before ``take_back``. When it ends by itself,
            that is done.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._shell: subprocess.Popen[Any] | None = None
        with suppress(OSError):  # a machine without a shell
            self._shell = subprocess.Popen(
                ["sh", "-c", _SCRIPT, "simfl", _UNKNOWN, *map(str, folders)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # what ends the driver's group is not to end it
            )

        atexit.register(self.take_back)

    def replace(self, line: str) -> None:
        """Have another line said."""
        if self._shell is not None:
            pipe: IO[bytes] = self._shell.stdin  # type: ignore[assignment]
            with suppress(OSError, ValueError):
                pipe.write(" ".join(line.split()).encode() + b"\n")
                pipe.flush()

    def take_back(self) -> None:
        """Have nothing said and nothing removed; may be called twice."""
        atexit.unregister(self.take_back)
        self.replace(_NOTHING)
        if self._shell is not None:
            with suppress(OSError, subprocess.TimeoutExpired):
                self._shell.communicate(timeout=5)
            self._shell = None
