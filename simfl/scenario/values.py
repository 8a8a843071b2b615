"""What values a scenario may hold: text that a file can hold, and integers of 64 bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from simfl.errors import ScenarioError
from simfl.scenario.document import Document, Path, show

_LARGEST: Final = 2**63 - 1


def require_values(document: Document) -> None:
    """Refuse text with a NUL, or with half of a character, and integers of more than 64 bits.

    Raises:
        ScenarioError: with a line for each.
    """
    faults = [
        document.fault_line(path, f"is {show(value)}, {unfit}")
        for path, value in _values(document.values, ())
        if (unfit := _unfit(value)) is not None
    ]
    if faults:
        raise ScenarioError(faults)


def _values(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Iterate over all text and integers, those of keys included."""
    if isinstance(value, str | int):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _values(key, path)
            yield from _values(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _values(item, (*path, index))


def _unfit(value: str | int) -> str | None:
    if isinstance(value, int):
        return f"too large a number; {_LARGEST} is the largest" if abs(value) > _LARGEST else None
    if "\0" in value:
        return "which holds a NUL character; leave that out"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "which holds half of a character; leave that out"
    return None
