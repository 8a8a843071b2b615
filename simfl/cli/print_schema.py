"""``simfl schema``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from simfl.cli.exit_codes import exit_codes
from simfl.cli.tables import say


@exit_codes()
def print_schema(
    plugins: Annotated[
        list[str], typer.Option("--plugin", help="A Python module to import first.")
    ] = [],  # noqa: B006
) -> None:
    """Print the JSON Schema of scenarios, for editors.

    With the YAML extension of an editor, begin a scenario with the line
    "# yaml-language-server: $schema=scenario.schema.json".
    """
    from simfl.plugins import import_installed, import_plugins
    from simfl.scenario.json_schema import scenario_schema

    # simfl's own imports are done, so a torch.py here does not shadow the package.
    if plugins:
        import_plugins(plugins, search=[str(Path.cwd())])
    for message in import_installed():
        say(message, err=True)
    say(json.dumps(scenario_schema(), indent=2, ensure_ascii=False), is_exact=True)
