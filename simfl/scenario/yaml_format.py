"""YAML as scenarios are written in: YAML 1.1 with ``1e-3`` for a number and dates for text."""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

__all__ = ["ScenarioLoader", "dump_yaml", "flow_yaml"]

_FLOAT: Final = re.compile(
    r"""^[-+]?(?:
        [0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
      | [0-9][0-9_]*[eE][-+]?[0-9]+
      | \.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
      | \.(?:inf|Inf|INF|nan|NaN|NAN)
    )$""",
    re.VERBOSE,
)
_FLOW_KEYS: Final = 3
"""Mappings of more keys are written with a line for each."""
_FLOAT_TAG: Final = "tag:yaml.org,2002:float"
_REPLACED: Final = (_FLOAT_TAG, "tag:yaml.org,2002:timestamp")


def _resolvers(former: dict[str, list[tuple[str, Any]]]) -> dict[str, list[tuple[str, Any]]]:
    kept = {
        first: [pair for pair in pairs if pair[0] not in _REPLACED]
        for first, pairs in former.items()
    }
    for first in "-+.0123456789":
        kept[first] = [(_FLOAT_TAG, _FLOAT), *kept.get(first, [])]
    return kept


class ScenarioLoader(yaml.SafeLoader):
    """Reads what a scenario may hold: text, numbers, true and false, null, lists, mappings."""

    yaml_implicit_resolvers = _resolvers(yaml.SafeLoader.yaml_implicit_resolvers)


class _ScenarioDumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _resolvers(yaml.SafeDumper.yaml_implicit_resolvers)

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> Any:
        node = super().represent_mapping(tag, mapping, flow_style)
        if self.default_flow_style is None and len(node.value) > _FLOW_KEYS:
            node.flow_style = False
        return node


# A default that YAML has no form for, of somebody's component, is shown as Python shows it.
_ScenarioDumper.add_multi_representer(
    object, lambda dumper, value: dumper.represent_str(repr(value))
)


def dump_yaml(value: Any) -> str:
    """Write plain data in the order it has; short lists and mappings stay on one line."""
    text: str = yaml.dump(
        value, Dumper=_ScenarioDumper, sort_keys=False, allow_unicode=True, default_flow_style=None
    )
    return text


def flow_yaml(value: Any) -> str:
    """Write plain data on one line.

    >>> flow_yaml({"kind": "mlp", "hidden": [64]})
    '{kind: mlp, hidden: [64]}'
    """
    text: str = yaml.dump(
        value,
        Dumper=_ScenarioDumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=True,
        width=float("inf"),
    )
    return text.removesuffix("...\n").strip()
