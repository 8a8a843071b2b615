"""Arguments and options that several commands share, and how a scenario is loaded by them."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from simfl.cli.output import say
from simfl.cluster.ahead import importing

if TYPE_CHECKING:
    from simfl.scenario import Scenario


Trust: TypeAlias = Literal["all", "none"]
Backend: TypeAlias = Literal["ray", "inline"]


def complete_scenario(incomplete: str) -> list[str]:
    """Complete the name of a shipped scenario, or the path of a file or a folder."""
    from simfl.shipped import shipped_scenarios

    names = [name for name in shipped_scenarios() if name.startswith(incomplete)]
    return names + _paths(incomplete, (".yaml", ".yml"))


def complete_folder(incomplete: str) -> list[str]:
    """Complete the path of a folder."""
    return _paths(incomplete, ())


def _paths(incomplete: str, suffixes: tuple[str, ...]) -> list[str]:
    found = map(Path, glob.glob(f"{glob.escape(incomplete)}*"))
    folders_and_files = [
        f"{path}/" if path.is_dir() else str(path)
        for path in found
        if path.is_dir() or path.suffix in suffixes
    ]
    return sorted(folders_and_files)


ScenarioFile: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help="A scenario file, or the name of a shipped one.",
        autocompletion=complete_scenario,
    ),
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
    str | None,
    typer.Option(metavar="HOST:PORT", help="A running Ray cluster, instead of cluster.address."),
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
    list[str],
    typer.Option("--plugin", metavar="MODULE", help="A Python module to import first."),
]
Target: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="METRIC=VALUE", help="Show how long runs took to reach a target: accuracy=0.9."
    ),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def load(
    file: str, overrides: Sequence[str], *, trust: Trust = "all", address: str | None = None
) -> Scenario:
    """Load a scenario by its file name, or a shipped one by its name, and print which one it is."""
    with importing():
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
