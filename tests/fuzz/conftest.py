"""How hard to try: a few fixed examples in the suite, any number by hand.

::

    SIMFL_FUZZ=10000 .venv/bin/pytest tests/fuzz

That takes new examples each time, and keeps those that fail in ``.hypothesis``. Each bug that was
found this way has its own example next to the property that it broke.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a scenario puts folders on the import path: undo that."""
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all examples of a module."""
    return tmp_path_factory.mktemp("fuzz")
