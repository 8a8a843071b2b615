"""What text a scenario may hold: any that a file can hold, and that can be part of its name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from simfl.errors import ScenarioError
from simfl.scenario.document import Document, Path, show

__all__ = ["require_text"]


def require_text(document: Document) -> None:
    """Refuse text with a NUL, or with half of a character, which no UTF-8 file can hold.

    Raises:
        ScenarioError: with a line for each.
    """
    faults = [
        document.fault_line(path, f"is {show(text)}, which holds {unfit}; leave that out")
        for path, text in _texts(document.values, ())
        if (unfit := _unfit(text)) is not None
    ]
    if faults:
        raise ScenarioError(faults)


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Iterate over all text, that of keys included."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(key, path)
            yield from _texts(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, (*path, index))


def _unfit(text: str) -> str | None:
    if "\0" in text:
        return "a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "half of a character"
    return None
