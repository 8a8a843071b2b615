"""Data that lies in the object store once, for several runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from simfl.cluster.references import Ref
from simfl.data import FederatedDataset


@dataclass(frozen=True)
class SharedData:
    """Where a data set lies in the object store. It is passed on by reference, and not copied."""

    ref: Ref

    def read(self) -> FederatedDataset:
        """Return the data set, whose arrays are read where they lie."""
        import ray

        dataset: Any = ray.get(self.ref)
        return cast(FederatedDataset, dataset)


def share(dataset: FederatedDataset) -> SharedData:
    """Put a data set into the object store."""
    import ray

    return SharedData(ray.put(dataset))
