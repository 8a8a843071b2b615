"""What comes before a run imports torch: the process from which its actors are forked."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from simfl.cluster import forking, standing


@contextmanager
def starting_ahead(backend: str, address: str | None) -> Iterator[None]:
    """Start the fork server of a run on Ray; it ends if the run has not used it by the end.

    Args:
        backend: of the run.
        address: given by the user, of a cluster.
    """
    own = address in (None, "local") and "RAY_ADDRESS" not in os.environ and not _is_initialized()
    if forking.is_ahead() or backend != "ray" or not own or standing.find() is not None:
        yield
        return
    forking.start_ahead()
    try:
        yield
    finally:
        forking.drop()


@contextmanager
def importing() -> Iterator[None]:
    """Pause garbage collections while modules are imported; they find nothing, and take a tenth."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _is_initialized() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
