"""What can be written in a scenario, as plain rows: for lists and for the docs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

from simfl.component import Component
from simfl.scenario.components import markdown
from simfl.scenario.json_schema import component_schema, section_schema
from simfl.scenario.yaml_format import flow_yaml
from simfl.section import Section

JsonSchema: TypeAlias = "dict[str, Any]"

_TYPE_NAMES = {
    "boolean": "true or false",
    "integer": "integer",
    "null": "null",
    "number": "number",
    "object": "mapping",
    "string": "text",
}
_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


@dataclass(frozen=True)
class KeyDescription:
    """One key of a section, or one field of a component."""

    key: str
    type: str
    """In words: "integer >= 1 or null"."""
    default: str | None
    """In YAML; None: the key is required."""
    meaning: str


def describe_component(cls: type[Component]) -> list[KeyDescription]:
    """Describe a component's fields in their order."""
    return list(_rows(component_schema(cls)))


def describe_section(section: type[Section]) -> list[KeyDescription]:
    """Describe a section's own keys in their order."""
    schema = section_schema(section)
    renamed = {section.flat.attribute: section.flat.key} if section.flat else {}
    return list(_rows(schema, renamed=renamed))


def type_text(schema: JsonSchema) -> str:
    """Say in words what a JSON Schema allows.

    >>> type_text({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]})
    'integer >= 1 or null'
    >>> type_text({"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}})
    'list of (number >= 0 and <= 1)'
    """
    if "x-component" in schema:
        return str(schema["x-component"])
    if "x-section" in schema:
        return "section"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(type_text(option) for option in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return " or ".join(map(flow_yaml, schema.get("enum") or [schema["const"]]))
    if schema.get("type") == "array":
        return _list_text(schema)
    name = _TYPE_NAMES.get(schema.get("type", ""), "anything")
    bounds = [
        f"{sign} {_number_text(schema[key])}" for key, sign in _BOUNDS.items() if key in schema
    ]
    return f"{name} {' and '.join(bounds)}".rstrip()


def _number_text(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _list_text(schema: JsonSchema) -> str:
    if "prefixItems" in schema:
        return f"[{', '.join(map(type_text, schema['prefixItems']))}]"
    item = type_text(schema.get("items", {}))
    return f"list of {f'({item})' if ' ' in item else item}"


def _rows(
    schema: JsonSchema, renamed: Mapping[str, str] = MappingProxyType({})
) -> Iterator[KeyDescription]:
    required = schema.get("required", ())
    for name, property_schema in schema.get("properties", {}).items():
        has_default = name not in required
        yield KeyDescription(
            key=renamed.get(name, name),
            type=type_text(property_schema),
            default=flow_yaml(property_schema.get("default")) if has_default else None,
            meaning=markdown(" ".join(property_schema.get("description", "").split())),
        )
