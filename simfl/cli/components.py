"""``simfl list`` and ``simfl schema``: what can be written in a scenario."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simfl.cli.options import AsJson, Plugins
from simfl.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from simfl.component import Component


def list_components(
    kind: Annotated[
        str | None, typer.Argument(metavar="KIND", help="One kind only: module, source...")
    ] = None,
    plugins: Plugins = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """List the components that a scenario can name, with fields, bounds and defaults."""
    from simfl.scenario.components import component_kinds
    from simfl.synonyms import NAMES

    _import_plugins(plugins)
    roots = _roots(kind, component_kinds())
    if as_json:
        print_json({what: _described(root) for what, root in roots.items()})
        return
    for what, root in roots.items():
        for cls in root.registry.values():
            _print_component(what, cls)
        for name, lines in NAMES.get(what, {}).items():
            say(f"instead of {what} {name} write {lines}")


def print_schema(
    plugins: Plugins = [],  # noqa: B006
    output: Annotated[
        bool, typer.Option("--output", help="That of what commands print with --json, instead.")
    ] = False,
) -> None:
    """Print the JSON Schema of scenarios, for editors.

    With the YAML extension of an editor, begin a scenario with the line
    "# yaml-language-server: $schema=scenario.schema.json".
    """
    from simfl.scenario.json_schema import scenario_schema

    if output:
        from simfl.cli.json_output import output_schema

        print_json(output_schema())
        return

    _import_plugins(plugins)
    print_json(scenario_schema())


def _import_plugins(plugins: list[str]) -> None:
    from simfl.plugins import import_installed, import_plugins

    # simfl has imported what it needs, so a torch.py in this folder does not shadow the package.
    if plugins:
        import_plugins(plugins, search=[str(Path.cwd())])
    for message in import_installed():
        say(message, err=True)


def _roots(kind: str | None, kinds: dict[str, type[Component]]) -> dict[str, type[Component]]:
    from simfl.errors import UnknownNameError

    if kind is None:
        return kinds
    if kind not in kinds:
        raise UnknownNameError("kind", kind, kinds)
    return {kind: kinds[kind]}


def _print_component(what: str, cls: type[Component]) -> None:
    from simfl.scenario.components import summary
    from simfl.scenario.reference import describe_component

    rows = [
        (row.key, row.type, "required" if row.default is None else row.default, row.meaning)
        for row in describe_component(cls)
    ]
    title = f"{what} {cls.name}: {summary(cls)}"
    print_table(("field", "type", "default", "meaning"), rows, title=title)


def _described(root: type[Component]) -> dict[str, Any]:
    from simfl.scenario.components import summary
    from simfl.scenario.reference import describe_component

    return {
        name: {
            "summary": summary(cls),
            "fields": [dataclasses.asdict(row) for row in describe_component(cls)],
        }
        for name, cls in root.registry.items()
    }
