"""How the processes of a cluster of one's own get memory for large tensors.

glibc hands a large tensor's memory back to the kernel as soon as it is freed, and the next one is
faulted in page by page: some 30 ms for 100 MB that are added up in 5. With huge pages of 2 MB it
is 3 ms, and no memory is held back for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["processes_with_huge_pages"]

# Where the kernel or the C library does not know of it, it is ignored:
# https://www.gnu.org/software/libc/manual/html_node/Memory-Allocation-Tunables.html
_NAME, _VALUE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"


@contextmanager
def processes_with_huge_pages() -> Iterator[None]:
    """Have processes that are started meanwhile use huge pages, unless the user tunes glibc."""
    if _NAME in os.environ:
        yield
        return
    os.environ[_NAME] = _VALUE
    try:
        yield
    finally:
        os.environ.pop(_NAME, None)
