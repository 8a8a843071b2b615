"""What stands for values that lie in the object store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

Ref: TypeAlias = Any
"""A Ray ObjectRef."""


@dataclass(frozen=True)
class SnapshotRefs:
    """Where a Snapshot lies, as two Parcels."""

    broadcast: Ref
    optimizer: Ref
