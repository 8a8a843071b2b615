"""What a Ray engine runs, in the session that it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np

from simfl.client import ClientRecipe
from simfl.cluster.code import ModuleSource
from simfl.cluster.placement import Bounds
from simfl.cluster.pool import ActorGroup
from simfl.data import FederatedDataset
from simfl.sections import ClusterSection
from simfl.server import ServerRecipe


@dataclass(frozen=True)
class SharedData:
    """A data set in the object store, used by several runs without a copy."""

    ref: Any
    """Its ObjectRef."""

    def read(self) -> FederatedDataset:
        """Return the data set; its arrays are in the object store."""
        import ray

        dataset: Any = ray.get(self.ref)
        return cast(FederatedDataset, dataset)


def share(dataset: FederatedDataset) -> SharedData:
    """Put a data set into the object store."""
    import ray

    return SharedData(ray.put(dataset))


@dataclass(frozen=True)
class EngineSetup:
    """What is run, by which actors, and where."""

    cluster: ClusterSection
    groups: tuple[ActorGroup, ...]
    """The groups of client actors, resolved from the section."""
    location: str
    """The storage of checkpoints, and of clients' states beyond ``cluster.state_memory``."""
    server: ServerRecipe
    """Builds the server in its actor."""
    client: ClientRecipe
    """Builds the hosts in the client actors."""
    dataset: FederatedDataset
    """Put into the object store once."""
    cohort_size: int
    """The number of clients in a round."""
    group_of: np.ndarray[Any, Any]
    """[population] which of the groups each client belongs to."""
    bounds: tuple[Bounds, ...]
    """By group, how many actors it needs and can use."""
    run_name: str
    """The namespace of the actors' names."""
    address: str | None = None
    """Of the Ray cluster; None: one that is started on this machine."""
    profile: bool = False
    """Whether to record what all processes do with their time."""
    scenario: str = "run"
    """The scenario's name."""
    logs_events: bool = True
    """Whether actors log what they do, and not only warnings."""
    folder: str | None = None
    """The current folder of the actors; None: as Ray has started them."""
    plugins: Sequence[str] = ()
    """Modules that every actor imports."""
    search: Sequence[str] = ()
    """Folders in which they are looked for."""
    sources: Mapping[str, ModuleSource] = field(default_factory=dict)
    """The modules that the driver has imported from there."""
    shared: SharedData | None = None
    """The data set, if it is in the object store already."""
    notify: Callable[[str], None] = lambda _: None
    """Called with each message for the user during the run."""

    def recipe_of(self, group: ActorGroup) -> ClientRecipe:
        """Return the recipe of the group's hosts."""
        return replace(self.client, stack=group.stack)

    def bounds_are_open(self, group: int) -> bool:
        """Return whether a group has as many actors as there is room for."""
        return self.cluster.placement == "pool" and self.groups[group].actors == "auto"
