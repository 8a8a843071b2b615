"""The user's cache: folders of what was made once, each written as a whole."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """Return the cache's folder for a kind: ``$XDG_CACHE_HOME/simfl/<kind>``, or under ``~``."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "simfl" / kind


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a folder as a whole; another process may write the same one at the same time.

    Args:
        folder: its path; what is there is replaced.
        write: writes the files into the folder that it is given, which becomes this one.

    Raises:
        OSError: if it cannot be written.
    """
    draft = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}")
    try:
        draft.mkdir(parents=True)
        write(draft)
        try:
            draft.rename(folder)
        except OSError:
            shutil.rmtree(folder)  # of another version, or cut short, or just written
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
