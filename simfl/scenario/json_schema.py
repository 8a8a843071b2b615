"""The JSON Schema of scenarios, for editors; and of each component, for docs and lists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, TypeAlias, get_args

from pydantic.json_schema import GenerateJsonSchema

from simfl.component import KIND, Component, Section
from simfl.scenario.components import component_kinds, field_docs, full_doc, markdown, summary
from simfl.scenario.fields import fields_adapter, keys_of
from simfl.scenario.plain import to_short
from simfl.scenario.schema import Scenario

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_REFERENCES: Final = {"x-component", "x-section"}
"""Keywords whose value is the name of a definition, until all is put together."""

JsonSchema: TypeAlias = "dict[str, Any]"


def scenario_schema() -> JsonSchema:
    """Return the JSON Schema (draft 2020-12) of a scenario, with all that is registered now."""
    definitions = {}
    kinds = component_kinds()
    sections = {*_sections(Scenario)}
    for root in kinds.values():
        sections |= {section for cls in root.registry.values() for section in _sections(cls)}
    for section in sorted(sections, key=lambda section: section.__name__):
        schema = section_schema(section)
        definitions[section.__name__] = _flat_schema(schema, section) if section.flat else schema
    # Not both can be given.
    both = {name: {"not": {"type": "null"}} for name in ("epochs", "steps")}
    definitions["ClientSection"]["not"] = {"properties": both, "required": list(both)}
    named = {what: _kind_schema(root) for what, root in kinds.items()}
    schema = {"$schema": DIALECT, **section_schema(Scenario)}
    resolved: JsonSchema = _resolved({**schema, "$defs": {**definitions, **named}})
    return resolved


def section_schema(section: type[Section]) -> JsonSchema:
    """Return the JSON Schema of a section.

    Components are ``{"x-component": kind}`` in it, and sections ``{"x-section": name}``.
    """
    schema = _fields_schema(section)
    if not schema["required"]:
        del schema["required"]
    return {"title": section.__name__, "description": full_doc(section), **schema}


def component_schema(cls: type[Component]) -> JsonSchema:
    """Return the JSON Schema of a component's fields, with what each means."""
    return {"description": summary(cls), **_fields_schema(cls)}


def _fields_schema(cls: type[Section | Component]) -> JsonSchema:
    schema = fields_adapter(cls).json_schema(schema_generator=Untitled)
    properties = schema.get("properties", {})
    meanings = field_docs(cls)
    for name, (_, default) in keys_of(cls).items():
        if default is not ...:
            properties[name]["default"] = to_short(default)
        if name in meanings:
            # What Python calls None is null in a scenario.
            properties[name]["description"] = re.sub(r"\bNone\b", "null", meanings[name])
    return {
        "type": "object",
        "properties": properties,
        "required": schema.get("required", []),
        "additionalProperties": False,
    }


class Untitled(GenerateJsonSchema):
    """Leaves out titles made of names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Return whether a field gets one."""
        return False


def _sections(cls: type[Section | Component]) -> Iterator[type[Section]]:
    """Yield the sections within a section or a component."""
    for hint, _ in keys_of(cls).values():
        for part in (hint, *get_args(hint), *(a for arg in get_args(hint) for a in get_args(arg))):
            if isinstance(part, type) and issubclass(part, Section):
                yield part
                yield from _sections(part)


def _flat_schema(schema: JsonSchema, section: type[Section]) -> JsonSchema:
    """Put the fields of each possible component at the same level as the section's own keys."""
    assert section.flat is not None
    attribute, key = section.flat.attribute, section.flat.key
    named = schema["properties"].pop(attribute)
    classes = component_kinds()[named["x-component"]].registry.values()
    own = schema["properties"]
    key_schema = {"description": named["description"], "enum": [cls.name for cls in classes]}
    return {
        "type": "object",
        "description": schema["description"],
        "properties": {key: key_schema, **own},
        "required": [key, *(name for name in schema["required"] if name != attribute)],
        "oneOf": [_variant(cls, key=key, siblings=tuple(own)) for cls in classes],
    }


def _kind_schema(root: type[Component]) -> JsonSchema:
    """Return the schema of a value that names a component of this kind."""
    classes = list(root.registry.values())
    bare = [cls for cls in classes if not component_schema(cls)["required"]]
    names = [{"const": cls.name, "description": summary(cls)} for cls in bare]
    mappings = [_variant(cls, key=KIND) for cls in classes]
    pairs = [_pair(cls) for cls in classes]
    # An empty "oneOf" is invalid, and a registry may have no component without required fields.
    return {
        "anyOf": [{"oneOf": options} for options in (names, mappings, pairs) if options] or [False]
    }


def _variant(cls: type[Component], *, key: str, siblings: tuple[str, ...] = ()) -> JsonSchema:
    schema = component_schema(cls)
    properties = {key: {"const": cls.name}, **schema["properties"], **dict.fromkeys(siblings, True)}
    return {**schema, "properties": properties, "required": [key, *schema["required"]]}


def _pair(cls: type[Component]) -> JsonSchema:
    items = [{"const": cls.name}, component_schema(cls)]
    return {"type": "array", "prefixItems": items, "items": False, "minItems": 2}


def _resolved(schema: Any) -> Any:
    """Replace components by references, without sibling keys.

    Editors that follow older drafts ignore the siblings of a ``$ref``.
    """
    if isinstance(schema, list):
        return [_resolved(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    resolved = {key: _resolved(item) for key, item in schema.items() if key not in _REFERENCES}
    if isinstance(schema.get("description"), str):
        resolved["description"] = markdown(" ".join(schema["description"].split()))
    for key in _REFERENCES & schema.keys():
        resolved["$ref"] = f"#/$defs/{schema[key]}"
    if "$ref" in resolved and len(resolved) > 1:
        resolved = {"allOf": [{"$ref": resolved.pop("$ref")}], **resolved}
    return resolved
