"""All that a Ray engine is made from, but for the session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simfl.client import ClientRecipe
from simfl.cluster.pool import ClusterOptions
from simfl.cluster.shared import SharedData
from simfl.data import FederatedDataset
from simfl.server import ServerRecipe

__all__ = ["EngineSetup"]


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
    shared: SharedData | None = None
    """Where the data set lies in the object store already; None: nowhere yet."""
