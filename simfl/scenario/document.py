"""Document: the plain data of a scenario, and the place where each key was written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from simfl.errors import Fault, ScenarioError

Path: TypeAlias = "tuple[str | int, ...]"
"""Keys and list indexes that lead to a value."""

_SHOWN = 60
_MAX_DIGITS = 18
_LARGEST = 2**63 - 1


@dataclass(frozen=True, order=True)
class Place:
    """Where a value was written."""

    origin: str = ""
    """The file as the user named it, ``--set``, or "" for data given in Python."""
    line: int = 0
    """From 1; 0 where there are no lines."""

    def __str__(self) -> str:
        return f"{self.origin}:{self.line}" if self.line else self.origin


@dataclass(frozen=True)
class Document:
    """The plain data that a scenario is read from."""

    values: dict[Any, Any] = field(default_factory=dict)
    places: Mapping[Path, Place] = field(default_factory=dict)
    """The place of each key and list item; () is the whole document."""

    def place(self, path: Path) -> Place:
        """Return the place of the value, or of the nearest enclosing one that has a place."""
        here: Path = ()
        nearest = self.places.get((), Place())
        for part in path:
            # A component may be a pair [name, fields]: look its fields up in the second item.
            is_in_pair = (*here, part) not in self.places and (*here, 1, part) in self.places
            here = (*here, 1, part) if is_in_pair else (*here, part)
            nearest = self.places.get(here, nearest)
        return nearest

    def value(self, path: Path) -> Any:
        """Return what was written at the path; None if nothing was."""
        value: Any = self.values
        for part in path:
            if isinstance(value, list | tuple) and len(value) == 2 and not isinstance(part, int):
                value = value[1]  # the fields of a component that is a pair
            try:
                value = value[part]
            except (LookupError, TypeError):
                return None
        return value

    def fault_line(self, path: Path, message: str) -> Fault:
        """Return ``FILE:LINE: key.path: message``."""
        text = " ".join(message.splitlines())
        return fault_at(self.place(path), text, key=format_path(path), value=self.value(path))


def fault_at(place: Place, message: str, *, key: str = "", value: Any = None) -> Fault:
    """Return ``FILE:LINE: KEY: message``."""
    return Fault.at(str(place), key, message, number=place.line or None, value=value)


def format_path(path: Path) -> str:
    """Format a path as users write it.

    >>> format_path(("client", "optimizer", "modules", 1, "beta_1"))
    'client.optimizer.modules[1].beta_1'
    """
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{_key(part)}" for part in path)
    return text.removeprefix(".")


def parse_path(text: str) -> Path:
    """Parse a path; an index is written ``modules[1]`` or ``modules.1``.

    >>> parse_path("client.optimizer.modules[1].beta_1")
    ('client', 'optimizer', 'modules', 1, 'beta_1')
    """
    parts = re.sub(r"\[(\d+)\]", r".\1", text).split(".")
    return tuple(int(part) if _is_index(part) else part for part in parts)


def _is_index(part: str) -> bool:
    # Python refuses to parse an int with thousands of digits; no list is that long.
    return part.isdecimal() and len(part) <= _MAX_DIGITS


def show(value: Any) -> str:
    """Format a value as one line of YAML, truncated if long.

    >>> show({"hidden": [64], "bias": None})
    '{hidden: [64], bias: null}'
    """
    text = _flow(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _flow(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_key(key)}: {_flow(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_flow, value))}]"
    return repr(value)


def _key(key: Any) -> str:
    text = str(key)
    return text if text.isprintable() else repr(text)


def require_values(document: Document) -> None:
    """Refuse text with a NUL or a lone surrogate, and integers beyond 64 bits.

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
    """Iterate over all strings and integers, including those in keys."""
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
        return "which contains a NUL character; remove it"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "which contains half of a surrogate pair; remove it"
    return None
