"""``simfl run`` and ``simfl resume``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from simfl.cli.huge_pages import restart_with_huge_pages
from simfl.cli.options import (
    Address,
    Overrides,
    RunBackend,
    ScenarioFile,
    Trusted,
    load,
)
from simfl.cli.output import say

_Out: TypeAlias = Annotated[
    str | None, typer.Option(help="The run's folder. Default: a new one under output.dir.")
]
_Seed: TypeAlias = Annotated[int | None, typer.Option(help="Instead of the scenario's seed.")]
_Resumed: TypeAlias = Annotated[
    Literal["never", "auto"],
    typer.Option(help="auto: continue from the last checkpoint in --out, if there is one."),
]
_Profiled: TypeAlias = Annotated[
    bool, typer.Option("--profile", help="Write flame graphs of all processes (simfl[profile]).")
]
_Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", help="Print the run's folder only.")]


def run_scenario(
    context: typer.Context,
    file: ScenarioFile,
    backend: RunBackend = "ray",
    address: Address = None,
    out: _Out = None,
    seed: _Seed = None,
    overrides: Overrides = [],  # noqa: B006
    resume: _Resumed = "never",
    profile: _Profiled = False,
    trust: Trusted = "all",
    quiet: _Quiet = False,
) -> None:
    """Run a scenario.

    The run's folder holds the resolved scenario, metrics.jsonl, weights.safetensors and
    summary.json.
    """
    if address is not None and backend == "inline":
        raise typer.BadParameter("requires --backend ray", param_hint="--address")
    if resume == "auto" and out is None:
        raise typer.BadParameter("needs --out, the folder to continue in", param_hint="--resume")
    if backend == "inline":
        restart_with_huge_pages(context)
    seeded = [] if seed is None else [f"seed={seed}"]
    scenario = load(file, [*overrides, *seeded], trust=trust, address=address)

    from simfl.simulation import run

    result = run(
        scenario,
        out=out,
        backend=backend,
        address=address,
        progress=not quiet,
        resume=resume,
        profile=profile,
    )
    if quiet:
        say(result.out, is_exact=True)


def resume_run(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a run.")],
    backend: RunBackend = "ray",
    address: Address = None,
    trust: Trusted = "all",
    quiet: _Quiet = False,
) -> None:
    """Continue a run that was stopped, from its last checkpoint.

    The numbers are those of a run that was never stopped.
    """
    if backend == "inline":
        restart_with_huge_pages(context)

    from simfl.simulation import resume

    result = resume(folder, backend=backend, address=address, progress=not quiet, trust=trust)
    if quiet:
        say(result.out, is_exact=True)
