"""What all actors share, and what each needs before anything of the user's can be unpickled."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch

from simfl.cluster.code import ModuleSource, install_main, install_sources
from simfl.cluster.diagnostics import log_as
from simfl.cluster.failures import UnbuiltActorError
from simfl.cluster.wire import Parcel, open_parcel
from simfl.engine import Sampling, peak_memory
from simfl.errors import ImportPathError
from simfl.plugins import import_plugins

T = TypeVar("T")


@dataclass(frozen=True)
class ActorSetup:
    """What an actor needs before it may unpickle the user's classes, and its recipe.

    It is an argument of ``start``, like the data, and not of the constructor: Ray keeps a large
    argument of a constructor in the object store, and may have deleted it when it restarts the
    actor.
    """

    plugins: tuple[str, ...]
    """Modules to import."""
    search: tuple[str, ...]
    """Folders in which to look for them."""
    recipe: bytes
    """A pickled ServerRecipe or ClientRecipe, opened once the plug-ins are imported."""
    threads: int
    """The number of torch's threads."""
    profile: bool = False
    """Whether to profile the actor."""
    log_level: int = logging.WARNING
    """The lowest level that it logs."""
    deterministic: bool = False
    """Whether to use deterministic kernels only."""
    folder: str | None = None
    """The current folder; None: the one in which the process was started."""
    sources: Mapping[str, ModuleSource] = field(default_factory=dict)
    """Modules of these folders, imported from their source."""
    main: bytes = b""
    """The result of ``read_main``, pickled by value."""

    def open_recipe(self, label: str) -> Any:
        """Prepare this process for the actor with this label, and return the recipe."""
        log_as(label, level=self.log_level)
        if self.folder is not None:
            os.chdir(self.folder)
        torch.set_num_threads(self.threads)
        install_sources(self.sources)
        import_plugins(self.plugins, search=self.search)
        if self.main:
            install_main(pickle.loads(self.main))
        try:
            return pickle.loads(self.recipe)
        except ImportError as error:
            raise ImportPathError(
                f"{label} cannot import what the scenario uses ({error}); install the package on "
                "every node"
            ) from error


class Actor(Generic[T]):
    """What all actors share.

    Args:
        label: ``server`` or ``client-3``.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._sampling: Sampling | None = None
        self._hosted: T | None = None

    def __repr__(self) -> str:
        return self._label

    def process_id(self) -> int:
        """Return the process id, also before ``start``."""
        return os.getpid()

    def peak_memory(self) -> int | None:
        """Return the process's peak resident memory in bytes."""
        return peak_memory()

    def end_profile(self) -> str | None:
        """Return the page with the flame graph; None without profiling."""
        return self._sampling.render() if self._sampling else None

    @property
    def _built(self) -> T:
        if self._hosted is None:
            raise UnbuiltActorError(f"{self._label} was restarted, and is not built yet")
        return self._hosted

    def _open_recipe(self, setup: ActorSetup, initial: Parcel | None) -> Any:
        if setup.profile and self._sampling is None:
            self._sampling = Sampling()
        recipe: Any = setup.open_recipe(self._label)
        return recipe if initial is None else recipe.with_initial(open_parcel(initial))
