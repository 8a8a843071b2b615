"""How much memory this process has used at most."""

from __future__ import annotations

import sys
from pathlib import Path


def peak_memory() -> int | None:
    """Return this process's peak resident memory in bytes; None where it can't be had."""
    try:
        # Not getrusage: there a process starts out with the peak of the one it was forked from.
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
    """Count this process's peak from now on; return False where that can't be done.

    See "clear_refs" in https://man7.org/linux/man-pages/man5/proc_pid_clear_refs.5.html
    """
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True
