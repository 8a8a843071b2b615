"""Document: the plain data of a scenario, and where each key of it was written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Path: TypeAlias = "tuple[str | int, ...]"
"""Keys and list indexes that lead to a value."""

_SHOWN = 60
_MAX_DIGITS = 18


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
    """What a scenario was read from."""

    values: dict[Any, Any] = field(default_factory=dict)
    places: Mapping[Path, Place] = field(default_factory=dict)
    """The place of each key and list item; () is the whole."""

    def place(self, path: Path) -> Place:
        """Return where the value was written, or else the nearest thing around it."""
        here: Path = ()
        nearest = self.places.get((), Place())
        for part in path:
            # A component may be a pair of name and fields: its fields are in the pair's second.
            is_in_pair = (*here, part) not in self.places and (*here, 1, part) in self.places
            here = (*here, 1, part) if is_in_pair else (*here, part)
            nearest = self.places.get(here, nearest)
        return nearest

    def fault_line(self, path: Path, message: str) -> str:
        """Return ``FILE:LINE: key.path: message``."""
        parts = (str(self.place(path)), format_path(path), " ".join(message.splitlines()))
        return ": ".join(part for part in parts if part)


def format_path(path: Path) -> str:
    """Write a path as users do.

    >>> format_path(("client", "optimizer", "modules", 1, "beta_1"))
    'client.optimizer.modules[1].beta_1'
    """
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{_key(part)}" for part in path)
    return text.removeprefix(".")


def parse_path(text: str) -> Path:
    """Read a path; an index is written ``modules[1]`` or ``modules.1``.

    >>> parse_path("client.optimizer.modules[1].beta_1")
    ('client', 'optimizer', 'modules', 1, 'beta_1')
    """
    parts = re.sub(r"\[(\d+)\]", r".\1", text).split(".")
    return tuple(int(part) if _is_index(part) else part for part in parts)


def _is_index(part: str) -> bool:
    # Python refuses to read a number of thousands of digits; no list is that long.
    return part.isdecimal() and len(part) <= _MAX_DIGITS


def show(value: Any) -> str:
    """Write a value as YAML has it on one line, shortened where it is long.

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
