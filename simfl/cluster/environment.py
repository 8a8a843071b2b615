"""Settings that the processes of a cluster of one's own are started with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# glibc hands a large tensor's memory back to the kernel as soon as it is freed, and the next one is
# faulted in page by page: some 30 ms for 100 MB that are added up in 5. With pages of 2 MB it is a
# few milliseconds. Where kernel or C library do not know of it, it is ignored:
# https://www.gnu.org/software/libc/manual/html_node/Memory-Allocation-Tunables.html
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}

# Ray keeps a record of each of the last 100,000 calls, 3 kB each, for its dashboard and timeline.
NO_EVENTS = {"RAY_task_events_report_interval_ms": "0"}

# Ray's own default on Windows and macOS, which holds on Linux too: the node's address is 127.0.0.1,
# and all of its processes listen there alone. Ray has no argument for it: `_node_ip_address` of
# 127.0.0.1 is replaced by the machine's, and so is that of a cluster to attach to. It is read when
# Ray is imported.
# https://docs.ray.io/en/latest/ray-core/starting-ray.html
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


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
