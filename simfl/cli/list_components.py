"""``simfl list``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simfl.cli.exit_codes import exit_codes
from simfl.cli.tables import print_table, say

if TYPE_CHECKING:
    from simfl.component import Component


@exit_codes()
def list_components(
    kind: Annotated[
        str | None, typer.Argument(metavar="[KIND]", help="One kind only: module, source...")
    ] = None,
    plugins: Annotated[
        list[str], typer.Option("--plugin", help="A Python module to import first.")
    ] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List all that can be named in a scenario, with fields, bounds and defaults."""
    from simfl.plugins import import_installed, import_plugins
    from simfl.scenario.kinds import component_kinds

    # simfl's own imports are done, so a torch.py here does not shadow the package.
    if plugins:
        import_plugins(plugins, search=[str(Path.cwd())])
    for message in import_installed():
        say(message, err=True)
    roots = _roots(kind, component_kinds())
    if as_json:
        described = {what: _described(root) for what, root in roots.items()}
        say(json.dumps(described, indent=2, ensure_ascii=False), is_exact=True)
        return
    for what, root in roots.items():
        for cls in root.registry.values():
            _print_component(what, cls)


def _roots(kind: str | None, kinds: dict[str, type[Component]]) -> dict[str, type[Component]]:
    from simfl.errors import UnknownNameError

    if kind is None:
        return kinds
    if kind not in kinds:
        raise UnknownNameError("kind", kind, kinds)
    return {kind: kinds[kind]}


def _print_component(what: str, cls: type[Component]) -> None:
    from simfl.scenario.component_docs import summary
    from simfl.scenario.description import describe_component

    rows = [
        (row.key, row.type, "required" if row.default is None else row.default, row.meaning)
        for row in describe_component(cls)
    ]
    title = f"{what} {cls.name}: {summary(cls)}"
    print_table(("field", "type", "default", "meaning"), rows, title=title)


def _described(root: type[Component]) -> dict[str, Any]:
    from simfl.scenario.component_docs import summary
    from simfl.scenario.description import describe_component

    return {
        name: {
            "summary": summary(cls),
            "fields": [dataclasses.asdict(row) for row in describe_component(cls)],
        }
        for name, cls in root.registry.items()
    }
