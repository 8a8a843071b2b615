"""From sections and components to plain data, as a scenario has it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from simfl.component import KIND, Component, Section
from simfl.errors import one_line
from simfl.scenario.fields import keys_of


def to_plain(value: Any) -> Any:
    """Return mappings, lists, text and numbers, with every default written out."""
    if isinstance(value, Section):
        return _section(value)
    if isinstance(value, Component):
        return {KIND: value.name, **to_plain(value.get_config())}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def to_short(value: Any) -> Any:
    """Return plain data without defaults; a component that has no others is its name alone."""
    if isinstance(value, Component):
        given = _without_defaults(value)
        return {KIND: value.name, **given} if given else value.name
    if isinstance(value, Section):
        return _without_defaults(value)
    if isinstance(value, list | tuple):
        return [to_short(item) for item in value]
    return value


def _section(section: Section) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name in keys_of(type(section)):
        value = getattr(section, name)
        if section.flat is not None and name == section.flat.attribute:
            plain |= {section.flat.key: value.name, **to_plain(value.get_config())}
        else:
            plain[name] = to_plain(value)
    return plain


def _without_defaults(value: Component | Section) -> dict[str, Any]:
    given = {name: getattr(value, name) for name in keys_of(type(value))}
    defaults = {name: default for name, (_, default) in keys_of(type(value)).items()}
    return {name: to_plain(item) for name, item in given.items() if item != defaults[name]}


def describe_changes(former: Any, present: Any) -> str:
    """Name the differences between plain data, up to three keys, with both values.

    >>> describe_changes({"seed": 1, "model": {"kind": "mlp"}}, {"seed": 2})
    'seed was 1 and is 2, model.kind was "mlp" and is not set'
    """
    before, after = dict(_leaves(former)), dict(_leaves(present))
    changes = [
        f"{key} was {_short(before.get(key))} and is {_short(after.get(key))}"
        for key in before | after
        if before.get(key) != after.get(key)
    ]
    more = [f"{len(changes) - 3} more keys"] if len(changes) > 3 else []
    return ", ".join(changes[:3] + more)


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted path and the text of each value that is not a mapping."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple) and any(isinstance(i, Mapping | list) for i in value):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{key}[{index}]")
    else:
        yield key, one_line(json.dumps(value, ensure_ascii=False, default=str))


def _short(text: str | None) -> str:
    if text is None:
        return "not set"
    return text if len(text) <= 60 else f"{text[:57]}..."
