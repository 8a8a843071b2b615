"""The fixed weights of a model in the object store, once on each node."""

from __future__ import annotations

from typing import Any

import ray

from simfl.cluster.setup import EngineSetup
from simfl.cluster.wire import pack
from simfl.models.base import LEAST_BASE_BYTES, unshared_base


def put_base(setup: EngineSetup) -> Any:
    """Put a model's fixed weights into the object store, for all actors of a node to read.

    Returns:
        The reference; None if sharing them is not worth it, or files share them already.
    """
    uses_cpus = any(not group.uses_gpu for group in setup.groups)
    if not uses_cpus or setup.client.fixed_bytes < LEAST_BASE_BYTES:
        return None
    base = unshared_base(setup.server.build_model())
    if base.num_bytes < LEAST_BASE_BYTES:
        return None
    return ray.put(pack(base, label=0, share=[base]))  # whose own memory the run gives back
