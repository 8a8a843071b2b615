"""Where resolved scenarios differ, key by key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simfl.report.wording import value_text


@dataclass(frozen=True)
class Difference:
    """A key whose values are not the same everywhere."""

    key: str
    """The dotted path: ``client.optimizer.modules[1].beta``."""
    values: tuple[str | None, ...]
    """One for each scenario; None where there is no such key."""


def differences(scenarios: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """Return the keys whose values differ, in the order of the scenarios."""
    flat = [flatten(scenario) for scenario in scenarios]
    keys = dict.fromkeys(key for one in flat for key in one)
    found = [Difference(key, tuple(one.get(key) for one in flat)) for key in keys]
    return [difference for difference in found if len(set(difference.values)) > 1]


def flatten(value: Any, key: str = "") -> dict[str, str]:
    """Return ``{dotted path: value as text}``; a list of plain values is one value.

    >>> flatten({"model": {"kind": "mlp", "hidden": [64, 32]}, "modules": [{"kind": "adam"}]})
    {'model.kind': 'mlp', 'model.hidden': '[64, 32]', 'modules[0].kind': 'adam'}
    """
    if isinstance(value, Mapping) and value:
        prefix = f"{key}." if key else ""
        parts = [(f"{prefix}{name}", item) for name, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        parts = [(f"{key}[{index}]", item) for index, item in enumerate(value)]
    else:
        return {key: value_text(value)}
    flat: dict[str, str] = {}
    for path, item in parts:
        flat |= flatten(item, path)
    return flat
