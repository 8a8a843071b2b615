"""Recipes of clients for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from simfl.client import ClientRecipe
from simfl.sampling import LocalWork
from simfl.sections import ClientSection, OptimizerSection

_OF_THE_SECTION = ("precision", "keep_state", "on_failure", "on_nonfinite")


def client_section(work: LocalWork, **keys: Any) -> ClientSection:
    """Return the section of clients that do this work."""
    return ClientSection(optimizer=OptimizerSection(lrate=0.1), **{**vars(work), **keys})


def changed(recipe: ClientRecipe, *, work: LocalWork | None = None, **changes: Any) -> ClientRecipe:
    """Return the recipe with other fields, or other keys of its section."""
    keys = {key: changes.pop(key) for key in _OF_THE_SECTION if key in changes}
    section = recipe.work if work is None else client_section(work)
    return replace(recipe, work=replace(section, **keys), **changes)
