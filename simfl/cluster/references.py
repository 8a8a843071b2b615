"""Values in the object store, by reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from simfl.data import FederatedDataset

Ref: TypeAlias = Any
"""A Ray ObjectRef."""


@dataclass(frozen=True)
class SnapshotRefs:
    """The references of a Snapshot, as two Parcels."""

    broadcast: Ref
    optimizer: Ref


@dataclass(frozen=True)
class SharedData:
    """A data set in the object store, used by several runs without a copy."""

    ref: Ref

    def read(self) -> FederatedDataset:
        """Return the data set; its arrays are in the object store."""
        import ray

        dataset: Any = ray.get(self.ref)
        return cast(FederatedDataset, dataset)


def share(dataset: FederatedDataset) -> SharedData:
    """Put a data set into the object store."""
    import ray

    return SharedData(ray.put(dataset))
