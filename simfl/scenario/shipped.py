"""The scenarios that come with simfl."""

from __future__ import annotations

import os
from pathlib import Path

from simfl.errors import ScenarioError, did_you_mean


def find_scenario(name: str | Path) -> Path:
    """Return the file of that name, or else the shipped scenario of that name.

    Args:
        name: a path, or a shipped scenario's as ``quickstart`` or ``configs/quickstart.yaml``.

    Raises:
        ScenarioError: if there is neither, with the nearest name and those there are.
    """
    path = Path(name)
    if os.path.exists(path):  # False, too, for a name that no file can have
        return path
    shipped = shipped_scenarios()
    if path.stem in shipped and path.suffix in ("", ".yaml", ".yml"):
        return shipped[path.stem]
    hint = did_you_mean(path.stem, shipped)
    known = f" Shipped with simfl: {', '.join(shipped)}." if hint.startswith("Did") else ""
    reason = f"there is no such file, and simfl ships no scenario called {path.stem!r}"
    raise ScenarioError([f"{name}: {reason}. {hint}{known}".rstrip()])


def shipped_scenarios() -> dict[str, Path]:
    """Return ``{name: file}`` of the scenarios that come with simfl, by name."""
    return {path.stem: path for path in sorted(_folder().glob("*.yaml"))}


def _folder() -> Path:
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"
