"""Settings that the processes of a cluster of one's own are started with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

__all__ = ["HUGE_PAGES", "NO_EVENTS", "started_with"]

# glibc hands a large tensor's memory back to the kernel as soon as it is freed, and the next one is
# faulted in page by page: some 30 ms for 100 MB that are added up in 5. With pages of 2 MB it is a
# few milliseconds. Where kernel or C library do not know of it, it is ignored:
# https://www.gnu.org/software/libc/manual/html_node/Memory-Allocation-Tunables.html
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}

# Ray keeps a record of each of the last 100,000 calls, 3 kB each, for its dashboard and timeline.
NO_EVENTS = {"RAY_task_events_report_interval_ms": "0"}


@contextmanager
def started_with(variables: Mapping[str, str]) -> Iterator[None]:
    """Have processes that are started meanwhile find these variables, unless the user sets them."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
