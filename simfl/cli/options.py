"""Arguments and options that several commands share, and how a scenario is loaded by them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from simfl.cli.output import say

if TYPE_CHECKING:
    from simfl.scenario import Scenario


Trust: TypeAlias = Literal["all", "none"]
Backend: TypeAlias = Literal["ray", "inline"]

ScenarioFile: TypeAlias = Annotated[
    str, typer.Argument(metavar="FILE", help="A scenario file, or the name of a shipped one.")
]
Overrides: TypeAlias = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a key: client.optimizer.lrate=0.1. Can be given several times.",
    ),
]
Address: TypeAlias = Annotated[
    str | None, typer.Option(help="A running Ray cluster, instead of cluster.address.")
]
RunBackend: TypeAlias = Annotated[
    Backend, typer.Option(help="Actors on Ray, or all in this process. Same numbers.")
]
Trusted: TypeAlias = Annotated[
    Trust,
    typer.Option(
        "--trust",
        help="none: refuse a scenario that runs its author's code: plugins, python components.",
    ),
]
Plugins: TypeAlias = Annotated[
    list[str], typer.Option("--plugin", help="A Python module to import first.")
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def load(
    file: str, overrides: Sequence[str], *, trust: Trust = "all", address: str | None = None
) -> Scenario:
    """Load a scenario by its file name, or a shipped one by its name, and print which one it is."""
    from simfl.scenario import load_scenario, own_address

    own = own_address(address, trust)
    return load_scenario(found(file), overrides=[*overrides, *own], trust=trust)


def found(file: str) -> Path:
    """Return the file of that name, or a shipped scenario's, and print which one it is."""
    from simfl.scenario import find_scenario

    path = find_scenario(file)
    if path != Path(file):
        say(f"{file}: taking the scenario shipped with simfl, {path}", err=True)
    return path
