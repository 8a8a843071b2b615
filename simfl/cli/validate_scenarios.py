"""``simfl validate``."""

from __future__ import annotations

import traceback
from typing import Annotated

import typer

from simfl.cli.exit_codes import BAD_INPUT, exit_codes
from simfl.cli.options import Overrides, found, load
from simfl.errors import ScenarioError, SimflError

__all__ = ["validate_scenarios"]


@exit_codes()
def validate_scenarios(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Scenario files.")],
    overrides: Overrides = [],  # noqa: B006
    no_data: Annotated[
        bool, typer.Option("--no-data", help="Check the files alone: load no data, build no model.")
    ] = False,
) -> None:
    """Check scenarios as a run would before it starts; exit with 2 if one has a fault."""
    faults = [_faults(file, overrides, with_data=not no_data) for file in files]
    if any(faults):
        raise typer.Exit(BAD_INPUT)


def _faults(file: str, overrides: list[str], *, with_data: bool) -> list[str]:
    """Check one scenario, print ``FILE: ok`` or its faults, and return these."""
    faults = []
    try:
        _check(file, overrides, with_data=with_data)
    except ScenarioError as error:
        faults = error.faults
    except SimflError as error:
        faults = [f"{file}: {error}"]
    except Exception as error:
        # Of the user's own code, which the scenario names: the traceback says where.
        faults = [f"{file}: {type(error).__name__}: {error}"]
        traceback.print_exc()
    for line in faults or [f"{file}: ok"]:
        typer.echo(line)
    return faults


def _check(file: str, overrides: list[str], *, with_data: bool) -> None:
    scenario = load(file, overrides)
    if scenario.sweep is not None:
        from simfl.scenario.sweeps import load_sweep

        load_sweep(found(file), overrides=overrides)
    if with_data:
        from simfl.simulation import build

        build(scenario)
