"""A message for a driver that is killed, and the removal of its temporary folders.

SIGKILL ends a process silently, and so does Ray if one of its own processes on this machine dies.
So a shell of a few hundred kilobytes waits for the end of a pipe from the driver.
"""

from __future__ import annotations

import atexit
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

_UNKNOWN = (
    "the run's process was killed, or Ray ended it because one of Ray's processes on this machine "
    "died; 'simfl resume' goes on from the last checkpoint"
)
_NOTHING = "nothing"
# When the pipe ends, print the last line that the driver wrote. Ray's processes end after the
# driver, and may write to their folders until then, so the removal is repeated.
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
    """Prints why this process ended, after it has been killed, and removes folders.

    Args:
        folders: removed if this process is killed before ``take_back``, which a normal exit calls.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._shell: subprocess.Popen[Any] | None = None
        with suppress(OSError):  # a machine without a shell
            self._shell = subprocess.Popen(
                ["sh", "-c", _SCRIPT, "simfl", _UNKNOWN, *map(str, folders)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # signals to the driver's process group must not end it
            )

        atexit.register(self.take_back)

    def replace(self, line: str) -> None:
        """Replace the line to print."""
        if self._shell is not None:
            pipe: IO[bytes] = self._shell.stdin  # type: ignore[assignment]
            with suppress(OSError, ValueError):
                pipe.write(" ".join(line.split()).encode() + b"\n")
                pipe.flush()

    def take_back(self) -> None:
        """Cancel the message and the removal; may be called twice."""
        atexit.unregister(self.take_back)
        self.replace(_NOTHING)
        if self._shell is not None:
            with suppress(OSError, subprocess.TimeoutExpired):
                self._shell.communicate(timeout=5)
            self._shell = None
