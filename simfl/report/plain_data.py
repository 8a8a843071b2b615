"""Read JSON and YAML as plain data, whatever they hold.

A resolved scenario is shown and compared here, not run, so neither components nor plug-ins are
looked up, and listing many runs stays quick.
"""

from __future__ import annotations

import json
from typing import Any

import yaml

_MAX_DEPTH = 50


def read_json(text: str) -> dict[str, Any]:
    """Read an object.

    Raises:
        ValueError: in a few words, if this is anything else.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    return _mapping(value)


def read_yaml(text: str) -> dict[str, Any]:
    """Read a mapping.

    Raises:
        ValueError: in a few words, if this is anything else, or holds an alias: of those a small
            file could make a large thing, and simfl writes none.
    """
    try:
        # Not libyaml's loader: it takes the process down where something is nested very deeply.
        value = yaml.load(text, Loader=_Loader)
    except _AliasError:
        raise ValueError("it holds an alias") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ValueError(f"line {line} is not YAML") from None
    except Exception:  # PyYAML passes on whatever Python raises on a date or an integer
        raise ValueError("it is not YAML") from None
    return _mapping(value)


class _AliasError(Exception):
    """The text contains an alias."""


class _Loader(yaml.SafeLoader):
    """Stops at the first alias, before it is expanded."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise _AliasError
        return super().compose_node(parent, index)


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("it is not a mapping")
    cleaned: dict[str, Any] = _clean(value)
    return cleaned


def _clean(value: Any, depth: int = 0) -> Any:
    """Return the value with text for keys, and without halves of characters, which no file takes.

    Raises:
        ValueError: if it is nested too deeply to be gone through.
    """
    if depth > _MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    if isinstance(value, str):
        return value if value.isascii() else value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {_clean(str(key)): _clean(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item, depth + 1) for item in value]
    return value
