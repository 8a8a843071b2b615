"""Writes docs/scenario.md: every key and everything that can be named, from the code itself.

::

    python -m simfl.scenario.reference > docs/scenario.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from simfl.component import Component
from simfl.scenario.components import component_kinds, full_doc, markdown
from simfl.scenario.description import KeyDescription, describe_component, describe_section
from simfl.scenario.schema import AshaSection, Scenario, SweepSection
from simfl.section import Section
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

_INTRODUCTION = """\
# Scenario reference

<!-- Made by `python -m simfl.scenario.reference > docs/scenario.md`; change the code instead. -->

A scenario is one YAML file. `simfl validate FILE` checks it, `simfl schema` prints its JSON Schema
for editors, `simfl list` shows what can be named in it, and `--set client.optimizer.lrate=0.1`
changes a key from the command line (a list item is `client.optimizer.modules.0`).

What has a name is written in one of three ways, everywhere the same:

```yaml
modules:
  - momentum                       # the name, where no field is required
  - [momentum, {beta: 0.8}]        # a pair of name and fields
  - {kind: momentum, beta: 0.8}    # one mapping
```

In `data` and `model` the fields of the source and of the model lie in the section itself:
`data: {source: npz, path: digits.npz, test_fraction: 0.2}`. A rate is a number or a schedule.

Relative file names are looked up beside the scenario file first, then in the current folder; the
same folders are searched for `plugins` and for `package.module:name` paths. Numbers are strict:
`10.0` is no integer, `"10"` no number; `1e-3` is a number. A key that is there twice, or that
nothing knows, is an error.
"""

_BAR = r"\|"

_SECTIONS: tuple[tuple[str, type[Section]], ...] = (
    ("data", DataSection),
    ("data.normalize", NormalizeSection),
    ("model", ModelSection),
    ("client", ClientSection),
    ("client.optimizer", OptimizerSection),
    ("server", ServerSection),
    ("server.optimizer", ServerOptimizerSection),
    ("evaluation", EvaluationSection),
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
        parts += [f"### {path}\n", f"{markdown(section.__doc__ or '')}\n"]
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
