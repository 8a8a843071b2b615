"""ActorSetup: what an actor needs before anything of the user's can be unpickled in its process."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from simfl.cluster.code import ModuleSource, install_main, install_sources
from simfl.cluster.diagnostics import log_as
from simfl.errors import ImportPathError
from simfl.plugins import import_plugins


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
