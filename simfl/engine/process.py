"""What this process uses: its peak memory, and a flame graph of its time."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from simfl.errors import import_extra

if TYPE_CHECKING:
    import pyinstrument

INTERVAL_S = 0.005
"""The interval between two samples of the stack, of some hundred bytes each, in seconds."""


def give_back_freed_memory() -> None:
    """Return freed memory to the system; glibc's malloc keeps it, others may do as they like.

    Modules of others are often cycles of objects, which only the garbage collector frees.
    """
    gc.collect()
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):
        return
    trim(0)


def peak_memory() -> int | None:
    """Return this process's peak resident memory in bytes; None where it is not available."""
    try:
        # Not getrusage: there, a process starts with the peak of the one it was forked from.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return next(1024 * int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line)
    except (OSError, StopIteration):
        return _by_rusage()


def _by_rusage() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def reset_peak_memory() -> bool:
    """Count this process's peak from now on; return False where that is not possible.

    See "clear_refs" in https://man7.org/linux/man-pages/man5/proc_pid_clear_refs.5.html
    """
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def require_profiler() -> None:
    """Check that the profiler is installed.

    Raises:
        MissingExtraError: if it is not.
    """
    import_extra("pyinstrument", what="--profile", extra="profile")


class Sampling:
    """Samples the stack of the thread that created it, until it is rendered."""

    def __init__(self) -> None:
        import pyinstrument

        self._profiler: pyinstrument.Profiler = pyinstrument.Profiler(
            interval=INTERVAL_S, async_mode="disabled"
        )
        self._profiler.start()

    def render(self) -> str:
        """Stop, in the same thread; return a page with the flame graph and the call tree."""
        self._profiler.stop()
        return self._profiler.output_html()
