"""What a run starts before it imports torch: the process from which its actors are forked."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from simfl.cluster import forking


@contextmanager
def starting_ahead(backend: str, address: str | None) -> Iterator[None]:
    """Start the fork server of a run on Ray; it ends if the run has not used it by the end.

    Args:
        backend: of the run.
        address: given by the user, of a cluster.
    """
    own = address in (None, "local") and "RAY_ADDRESS" not in os.environ and not _is_initialized()
    if forking.is_ahead() or backend != "ray" or not own:
        yield
        return
    forking.start_ahead()
    try:
        yield
    finally:
        forking.drop()


def _is_initialized() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
