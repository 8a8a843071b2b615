"""Overrides: ``client.optimizer.lrate=0.1`` as the command line's ``--set`` gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, Final

from simfl.component import as_lists
from simfl.errors import ScenarioError
from simfl.scenario.components import component_kinds
from simfl.scenario.document import (
    Document,
    Path,
    Place,
    fault_at,
    format_path,
    parse_path,
    show,
)
from simfl.scenario.reading import parse_value

_ORIGIN: Final = "--set"


def apply_overrides(document: Document, overrides: Iterable[str]) -> Document:
    """Return the document with values added or replaced.

    Args:
        document: the base; it is not modified.
        overrides: ``key.path=value``, the value in YAML; list items as ``modules.0``, fields of
            components as ``algorithm.strength`` or ``modules.0.beta``.

    Raises:
        ScenarioError: for a malformed override, or a path that does not exist.
    """
    if isinstance(overrides, str):
        raise ScenarioError([f"overrides: is the text {overrides!r}; give a list: [{overrides!r}]"])
    for override in overrides:
        path, value = _parse(override)
        document = put_values(document, {path: (value, Place(_ORIGIN))})
    return document


def put_values(document: Document, values: Mapping[Path, tuple[Any, Place]]) -> Document:
    """Return the document with values added or replaced, each with its place.

    Raises:
        ScenarioError: for a path that does not exist.
    """
    changed = as_lists(document.values)
    places = dict(document.places)
    for given, (value, place) in values.items():
        path = _put(changed, given, value, place)
        inside = [known for known in places if known[: len(path)] == path]
        for known in inside:
            del places[known]
        places[path] = place
    return Document(changed, places)


def _parse(override: str) -> tuple[Path, Any]:
    key, equals, text = override.partition("=")
    path = parse_path(key.strip())
    if not equals or "" in path:
        raise _error(Place(_ORIGIN), f"{override!r} is not of the form key.path=value")
    return path, parse_value(text, origin=f"{_ORIGIN} {format_path(path)}")


def _put(values: Any, path: Path, value: Any, place: Place) -> Path:
    """Set a value, in place; return its path in the document.

    A field of a component is set by its name however the component is written: ``algorithm: ditto``
    becomes ``algorithm: [ditto, {strength: 0.5}]``.
    """
    taken: list[str | int] = []
    for depth, (part, following) in enumerate(pairwise(path)):
        if isinstance(values, dict) and values.get(part) is None:
            # Setting a key creates its section, if that is missing or empty.
            values[part] = [] if isinstance(following, int) else {}
        _require(values, part, path[:depth], place)
        if isinstance(following, str) and _is_component_name(values[part]):
            values[part] = [values[part], {}]
        taken.append(part)
        values = values[part]
        if isinstance(following, str) and _has_fields(values):
            taken.append(1)
            values = values[1]
    if not isinstance(values, dict):
        _require(values, path[-1], path[:-1], place)
    values[path[-1]] = value
    return (*taken, path[-1])


def _is_component_name(value: Any) -> bool:
    kinds = component_kinds().values() if isinstance(value, str) else ()
    return any(value in kind.registry for kind in kinds)


def _has_fields(value: Any) -> bool:
    """Return whether a value is a component as [name, {field: value}]."""
    is_pair = isinstance(value, list) and len(value) == 2
    return is_pair and isinstance(value[0], str) and isinstance(value[1], dict)


def _require(values: Any, part: str | int, path: Path, place: Place) -> None:
    where = format_path(path)
    if isinstance(values, list):
        if not isinstance(part, int) or part >= len(values):
            reason = f"has no item {part!r}; it has {len(values)}, counted from 0"
            raise _error(place, f"{where}: {reason}")
    elif not isinstance(values, dict):
        reason = f"is {show(values)}, which has no {part!r}; set {where} as a whole"
        raise _error(place, f"{where}: {reason}")


def _error(place: Place, message: str) -> ScenarioError:
    return ScenarioError([fault_at(place, message)])
