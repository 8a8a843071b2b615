"""``simfl run``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from simfl.cli.exit_codes import exit_codes
from simfl.cli.options import Overrides, ScenarioFile, load

__all__ = ["run_scenario"]


class Backend(StrEnum):
    """Where clients are trained."""

    ray = "ray"
    inline = "inline"


@exit_codes()
def run_scenario(
    file: ScenarioFile,
    backend: Annotated[
        Backend, typer.Option(help="Actors on Ray, or all in this process. Same numbers.")
    ] = Backend.ray,
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster, instead of cluster.address.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder. Default: a new one under output.dir.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the scenario's seed.")] = None,
    overrides: Overrides = [],  # noqa: B006
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the run's folder only.")] = False,
) -> None:
    """Run a scenario.

    The run's folder holds the resolved scenario, metrics.jsonl, weights.safetensors and
    summary.json.
    """
    if address is not None and backend is Backend.inline:
        raise typer.BadParameter("goes with --backend ray only", param_hint="--address")
    seeded = [] if seed is None else [f"seed={seed}"]
    scenario = load(file, [*overrides, *seeded])

    from simfl.simulation import run

    result = run(scenario, out=out, backend=backend.value, address=address, progress=not quiet)
    if quiet:
        typer.echo(result.out)
