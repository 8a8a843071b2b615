"""``simfl run``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from simfl.cli.exit_codes import exit_codes
from simfl.cli.options import Overrides, ScenarioFile, Trust, Trusted, load
from simfl.cli.tables import say


class Backend(StrEnum):
    """Where clients are trained."""

    ray = "ray"
    inline = "inline"


class Resume(StrEnum):
    """Whether a run goes on where it was stopped."""

    never = "never"
    auto = "auto"


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
        str | None, typer.Option(help="The run's folder. Default: a new one under output.dir.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the scenario's seed.")] = None,
    overrides: Overrides = [],  # noqa: B006
    resume: Annotated[
        Resume, typer.Option(help="auto: go on from the last checkpoint in --out, if there is one.")
    ] = Resume.never,
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Write flame graphs of all processes (simfl[profile])."),
    ] = False,
    trust: Trusted = Trust.all,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the run's folder only.")] = False,
) -> None:
    """Run a scenario.

    The run's folder holds the resolved scenario, metrics.jsonl, weights.safetensors and
    summary.json.
    """
    if address is not None and backend is Backend.inline:
        raise typer.BadParameter("goes with --backend ray only", param_hint="--address")
    if resume is Resume.auto and out is None:
        raise typer.BadParameter("needs --out, the folder to go on in", param_hint="--resume")
    seeded = [] if seed is None else [f"seed={seed}"]
    scenario = load(file, [*overrides, *seeded], trust=trust, address=address)

    from simfl.simulation import run

    result = run(
        scenario,
        out=out,
        backend=backend.value,
        address=address,
        progress=not quiet,
        resume=resume.value,
        profile=profile,
    )
    if quiet:
        say(result.out, is_exact=True)
