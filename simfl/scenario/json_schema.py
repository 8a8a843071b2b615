"""The JSON Schema of scenarios, for editors; and of each component, for docs and lists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, TypeAlias

from pydantic.json_schema import GenerateJsonSchema

from simfl.component import Component, field_types
from simfl.scenario.component_docs import field_docs, markdown, summary
from simfl.scenario.kinds import component_kinds
from simfl.scenario.named import KIND, fields_adapter
from simfl.scenario.plain import to_plain, to_short
from simfl.scenario.schema import Scenario
from simfl.scenario.section import Section

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

JsonSchema: TypeAlias = "dict[str, Any]"


def scenario_schema() -> JsonSchema:
    """Return the JSON Schema (draft 2020-12) of a scenario, with all that is registered now."""
    schema = section_schema(Scenario)
    definitions = schema.pop("$defs")
    for name, section in _flat_sections():
        definitions[name] = _flat_schema(definitions[name], section)
    kinds = {what: _kind_schema(root) for what, root in component_kinds().items()}
    schema = {"$schema": DIALECT, "title": "simfl scenario", **schema}
    resolved: JsonSchema = _resolved({**schema, "$defs": {**definitions, **kinds}})
    return resolved


def section_schema(section: type[Section]) -> JsonSchema:
    """Return the JSON Schema of a section, in which components are ``{"x-component": kind}``."""
    return section.model_json_schema(schema_generator=_Generator)


def component_schema(cls: type[Component]) -> JsonSchema:
    """Return the JSON Schema of a component's fields, with what each means."""
    schema = fields_adapter(cls).json_schema(schema_generator=_Generator)
    properties = schema.get("properties", {})
    meanings = field_docs(cls)
    for name, (_, default) in field_types(cls).items():
        if default is not ...:
            properties[name]["default"] = to_plain(default)
        if name in meanings:
            # What Python calls None is null in a scenario.
            properties[name]["description"] = re.sub(r"\bNone\b", "null", meanings[name])
    return {
        "type": "object",
        "description": summary(cls),
        "properties": properties,
        "required": schema.get("required", []),
        "additionalProperties": False,
    }


class _Generator(GenerateJsonSchema):
    """Writes defaults as a scenario would have them, and leaves out titles made of names."""

    def encode_default(self, dft: Any) -> Any:
        return super().encode_default(to_short(dft))

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _flat_sections() -> Iterator[tuple[str, type[Section]]]:
    for field in Scenario.model_fields.values():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section) and section.flat:
            yield section.__name__, section


def _flat_schema(schema: JsonSchema, section: type[Section]) -> JsonSchema:
    """Let the fields of each component that the section can hold lie beside its own keys."""
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
        "oneOf": [_variant(cls, key=key, beside=tuple(own)) for cls in classes],
    }


def _kind_schema(root: type[Component]) -> JsonSchema:
    """Return what can stand where a component of this kind can: see ``named.py``."""
    classes = list(root.registry.values())
    bare = [cls for cls in classes if not component_schema(cls)["required"]]
    names = [{"const": cls.name, "description": summary(cls)} for cls in bare]
    mappings = [_variant(cls, key=KIND) for cls in classes]
    pairs = [_pair(cls) for cls in classes]
    # An empty "oneOf" is not valid: a registry may hold nothing that can be named alone.
    return {
        "anyOf": [{"oneOf": options} for options in (names, mappings, pairs) if options] or [False]
    }


def _variant(cls: type[Component], *, key: str, beside: tuple[str, ...] = ()) -> JsonSchema:
    schema = component_schema(cls)
    properties = {key: {"const": cls.name}, **schema["properties"], **dict.fromkeys(beside, True)}
    return {**schema, "properties": properties, "required": [key, *schema["required"]]}


def _pair(cls: type[Component]) -> JsonSchema:
    items = [{"const": cls.name}, component_schema(cls)]
    return {"type": "array", "prefixItems": items, "items": False, "minItems": 2}


def _resolved(schema: Any) -> Any:
    """Put references where components are, and nothing beside a reference.

    Editors that go by older drafts overlook what stands beside a ``$ref``.
    """
    if isinstance(schema, list):
        return [_resolved(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    resolved = {key: _resolved(item) for key, item in schema.items() if key != "x-component"}
    if isinstance(schema.get("description"), str):
        resolved["description"] = markdown(" ".join(schema["description"].split()))
    if "x-component" in schema:
        resolved["$ref"] = f"#/$defs/{schema['x-component']}"
    if "$ref" in resolved and len(resolved) > 1:
        resolved = {"allOf": [{"$ref": resolved.pop("$ref")}], **resolved}
    return resolved
