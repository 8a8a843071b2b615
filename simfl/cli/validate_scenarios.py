"""``simfl validate``."""

from __future__ import annotations

import traceback
from typing import Annotated

import typer

from simfl.cli.exit_codes import BAD_INPUT, exit_codes, own_traceback
from simfl.cli.options import Overrides, Trust, found, load
from simfl.cli.tables import say
from simfl.errors import ScenarioError, SimflError


@exit_codes()
def validate_scenarios(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Scenario files.")],
    overrides: Overrides = [],  # noqa: B006
    no_data: Annotated[
        bool, typer.Option("--no-data", help="Check the files alone: load no data, build no model.")
    ] = False,
    no_import: Annotated[
        bool,
        typer.Option(
            "--no-import", help="Refuse scenarios that run code of their authors'; import none."
        ),
    ] = False,
) -> None:
    """Check scenarios as a run would before it starts; exit with 2 if one has a fault."""
    trust = Trust.none if no_import else Trust.all
    faults = [_faults(file, overrides, with_data=not no_data, trust=trust) for file in files]
    if any(faults):
        raise typer.Exit(BAD_INPUT)


def _faults(file: str, overrides: list[str], *, with_data: bool, trust: Trust) -> list[str]:
    """Check one scenario, print ``FILE: ok`` or its faults, and return them; notes go to stderr."""
    faults: list[str] = []
    try:
        for note in _check(file, overrides, with_data=with_data, trust=trust):
            say(f"{file}: {note}", err=True)
    except ScenarioError as error:
        faults = error.faults
        if trace := own_traceback(error):
            say(trace, err=True)
    except SimflError as error:
        faults = [f"{file}: {error}"]
    except Exception as error:
        # Of the user's own code, which the scenario names: the traceback says where.
        faults = [f"{file}: {type(error).__name__}: {error}"]
        say(traceback.format_exc().rstrip(), err=True)
    for line in faults or [f"{file}: ok"]:
        say(line)
    return faults


def _check(file: str, overrides: list[str], *, with_data: bool, trust: Trust) -> tuple[str, ...]:
    """Check one scenario, and return the notes that a run of it would print."""
    scenario = load(file, overrides, trust=trust)
    if scenario.sweep is not None:
        from simfl.scenario.sweeps import load_sweep

        load_sweep(found(file), overrides=overrides, trust=trust.value)
    if not with_data:
        return ()

    from simfl.simulation import build

    return build(scenario).notes
