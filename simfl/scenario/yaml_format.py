"""The YAML of scenarios: what YAML 1.1 and 1.2 read in the same way, and dates as text."""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

_FLOAT: Final = re.compile(
    r"""^[-+]?(?:
        [0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
      | [0-9][0-9_]*[eE][-+]?[0-9]+
      | \.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
      | \.(?:inf|Inf|INF|nan|NaN|NAN)
    )$""",
    re.VERBOSE,
)
_TWO_WAYS: Final = re.compile(
    r"""^(?:
        [-+]?0[0-9_]+                        # 010 is 8 in YAML 1.1, and 10 in YAML 1.2
      | [-+]?[0-9][0-9_]*_[0-9_]*            # 1_000 is a number in 1.1, and text in 1.2
      | [-+]?0b[01_]+ | [-+]0x[0-9a-fA-F_]+ | 0x[0-9a-fA-F]*_[0-9a-fA-F_]* | 0o[0-7]+
      | [-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+   # 1:30 is 90 in 1.1, and text in 1.2
      | yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF
    )$""",
    re.VERBOSE,
)
TWO_WAYS_TAG: Final = "tag:simfl,2026:read-in-two-ways"
"""The tag of a plain scalar that YAML 1.1 and YAML 1.2 read differently."""
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
        kept[first] = [(TWO_WAYS_TAG, _TWO_WAYS), (_FLOAT_TAG, _FLOAT), *kept.get(first, [])]
    for first in "yYnNoO":
        kept[first] = [(TWO_WAYS_TAG, _TWO_WAYS), *kept.get(first, [])]
    return kept


class ScenarioLoader(yaml.SafeLoader):
    """Reads what a scenario may hold: text, numbers, true and false, null, lists, mappings.

    Args:
        text: the YAML text.
        max_nodes: the maximum number of values, with aliases not expanded.
        max_depth: the maximum nesting depth.
    """

    yaml_implicit_resolvers = _resolvers(yaml.SafeLoader.yaml_implicit_resolvers)

    def __init__(self, text: str, *, max_nodes: int, max_depth: int) -> None:
        super().__init__(text)
        self._left = max_nodes
        self._levels_left = max_depth

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node, unless there are too many, or too many levels."""
        self._left -= 1
        self._levels_left -= 1
        if self._left < 0 or self._levels_left < 0:
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            raise TooLargeError(event.start_mark, is_too_deep=self._levels_left < 0)
        node = super().compose_node(parent, index)
        self._levels_left += 1
        return node


class TooLargeError(Exception):
    """There are too many values, or too many levels of them."""

    def __init__(self, mark: yaml.Mark, *, is_too_deep: bool) -> None:
        super().__init__()
        self.mark = mark
        self.is_too_deep = is_too_deep


class _ScenarioDumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _resolvers(yaml.SafeDumper.yaml_implicit_resolvers)

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> Any:
        node = super().represent_mapping(tag, mapping, flow_style)
        if self.default_flow_style is None and len(node.value) > _FLOW_KEYS:
            node.flow_style = False
        return node


# A component's default that YAML cannot represent is shown by its repr.
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
