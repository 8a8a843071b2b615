"""All that a Ray engine is made from, but for the session."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from simfl.client import ClientRecipe
from simfl.cluster.code import ModuleSource
from simfl.cluster.placement import Bounds
from simfl.cluster.pool import ActorGroup, ClusterOptions
from simfl.cluster.references import SharedData
from simfl.data import FederatedDataset
from simfl.server import ServerRecipe


@dataclass(frozen=True)
class EngineSetup:
    """What is run, by whom, and where."""

    options: ClusterOptions
    server: ServerRecipe
    """What the server's actor is made from."""
    client: ClientRecipe
    """What the client actors are made from."""
    dataset: FederatedDataset
    """Put into the object store once."""
    cohort_size: int
    """Clients a round."""
    group_of: np.ndarray[Any, Any]
    """[population] which of the options' groups each client belongs to."""
    bounds: tuple[Bounds, ...]
    """By group, how many actors it needs and can use."""
    run_name: str
    """The namespace of the actors' names."""
    scenario: str = "run"
    """The scenario's name."""
    logs_events: bool = True
    """Whether actors log what they do, and not only what goes wrong."""
    plugins: Sequence[str] = ()
    """Modules that every actor imports."""
    search: Sequence[str] = ()
    """Folders in which they are looked for."""
    sources: Mapping[str, ModuleSource] = field(default_factory=dict)
    """What the driver has imported from there."""
    shared: SharedData | None = None
    """Where the data set lies in the object store already; None: nowhere yet."""
    tell: Callable[[str], None] = lambda _: None
    """Is told what a user should know while it runs, a line each."""

    def recipe_of(self, group: ActorGroup) -> ClientRecipe:
        """Return what the group's actors are made from."""
        return replace(self.client, stack=group.stack)

    def bounds_are_open(self, group: int) -> bool:
        """Say whether a group has as many actors as there is room for."""
        return self.options.placement == "pool" and self.options.groups[group].actors is None
