"""What can be written in a scenario, as plain rows; and docs/scenario.md, which lists all of it.

::

    python -m simfl.scenario.reference > docs/scenario.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

from simfl.component import Component, Section
from simfl.models import LoRA
from simfl.scenario.components import component_kinds, full_doc, markdown
from simfl.scenario.json_schema import component_schema, section_schema
from simfl.scenario.schema import AshaSection, Scenario, SweepSection
from simfl.scenario.yaml_format import flow_yaml
from simfl.sections import (
    ClientSection,
    ClusterSection,
    DataSection,
    EvaluationSection,
    GroupSection,
    ModelSection,
    NormalizeSection,
    OptimizerSection,
    OutputSection,
    SelectionSection,
    ServerOptimizerSection,
    ServerSection,
)

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
    """Describe in words what a JSON Schema allows.

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


_INTRODUCTION = """\
# Scenario reference

<!-- Made by `python -m simfl.scenario.reference > docs/scenario.md`; change the code instead. -->

A scenario is one YAML file. `simfl validate FILE` checks it, `simfl schema` prints its JSON Schema
for editors, `simfl list` shows what can be named in it, and `--set client.optimizer.lrate=0.1`
changes a key from the command line (a list item is `client.optimizer.modules.0`, and a
field of a component `algorithm.strength` or `client.optimizer.modules.0.beta`).

Every component can be written in one of three ways:

```yaml
modules:
  - momentum                       # the name, where no field is required
  - [momentum, {beta: 0.8}]        # a pair of name and fields
  - {kind: momentum, beta: 0.8}    # one mapping
```

In `data` and `model`, the fields of the source and of the model are keys of the section itself:
`data: {source: npz, path: digits.npz, test_fraction: 0.2}`. A rate is a number or a schedule.

Relative file names are looked up in the scenario file's folder, then in the current folder; the
same folders are searched for `plugins` and for `package.module:name` paths. Numbers are strict:
`10.0` is no integer, `"10"` no number; `1e-3` is a number. Duplicate and unknown
keys are errors.
"""

_BAR = r"\|"

_SECTIONS: tuple[tuple[str, type[Section]], ...] = (
    ("data", DataSection),
    ("data.normalize", NormalizeSection),
    ("model", ModelSection),
    ("model.lora", LoRA),
    ("client", ClientSection),
    ("client.optimizer", OptimizerSection),
    ("server", ServerSection),
    ("server.optimizer", ServerOptimizerSection),
    ("evaluation", EvaluationSection),
    ("evaluation.new_clients", SelectionSection),
    ("cluster", ClusterSection),
    ("cluster.groups", GroupSection),
    ("cluster.groups.clients", SelectionSection),
    ("output", OutputSection),
    ("sweep", SweepSection),
    ("sweep.asha", AshaSection),
)


def scenario_reference() -> str:
    """Return the page, with the components that come with simfl."""
    parts = [_INTRODUCTION, "## Keys\n", _table(describe_section(Scenario), header="key")]
    for path, section in _SECTIONS:
        parts += [f"### {path}\n", f"{full_doc(section)}\n"]
        parts.append(_table(describe_section(section), header="key"))
    parts.append("## What can be named\n")
    for what, root in component_kinds().items():
        parts += [f"### {what}\n", *_components(root)]
    return "\n".join(parts)


def _components(root: type[Component]) -> Iterator[str]:
    for name, cls in root.registry.items():
        if cls.__module__.partition(".")[0] != "simfl":
            continue
        yield f"#### {name}\n"
        yield f"{full_doc(cls)}\n"
        if rows := describe_component(cls):
            yield _table(rows, header="field")


def _table(rows: list[KeyDescription], *, header: str) -> str:
    lines = [f"| {header} | type | default | meaning |", "|---|---|---|---|"]
    for row in rows:
        default = "required" if row.default is None else f"`{row.default}`"
        cells = (f"`{row.key}`", row.type, default, row.meaning)
        lines.append(f"| {' | '.join(cell.replace('|', _BAR) for cell in cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.stdout.write(scenario_reference())
