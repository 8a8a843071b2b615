"""Memory that this process no longer needs."""

from __future__ import annotations

import ctypes


def give_back_freed_memory() -> None:
    """Hand freed memory back to the system; glibc's malloc keeps it, others may do as they like."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):
        return
    trim(0)
