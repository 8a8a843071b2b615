"""The scenarios that are shipped with simfl."""

from __future__ import annotations

from pathlib import Path

__all__ = ["shipped_scenarios"]


def shipped_scenarios() -> dict[str, Path]:
    """Return ``{name: file}`` of the scenarios shipped with simfl, by name."""
    folder = _folder()
    files = [*folder.glob("*.yaml"), *folder.glob("algorithms/*.yaml"), *folder.glob("llm/*.yaml")]
    return {path.stem: path for path in sorted(files, key=lambda path: path.stem)}


def _folder() -> Path:
    package = Path(__file__).resolve().parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"
