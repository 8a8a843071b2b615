"""``simfl run`` and ``simfl resume``."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

import typer

from simfl.cli.options import (
    Address,
    AsJson,
    Overrides,
    RunBackend,
    ScenarioFile,
    Trusted,
    complete_folder,
    load,
)
from simfl.cli.output import FAILED, print_json, say
from simfl.cluster.ahead import importing, starting_ahead

if TYPE_CHECKING:
    from simfl.cli.json_output import Ran, Verified
    from simfl.simulation import Result, Verdict

_Out: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="FOLDER", help="The run's folder. Default: a new one under output.dir."),
]
_Seed: TypeAlias = Annotated[int | None, typer.Option(help="Instead of the scenario's seed.")]
_Resumed: TypeAlias = Annotated[
    Literal["never", "auto"],
    typer.Option(help="auto: continue from the last checkpoint in --out, if there is one."),
]
_Baseline: TypeAlias = Annotated[
    Literal["centralized", "local"] | None,
    typer.Option(
        help="Run a baseline of the scenario: all examples in one place, or each client alone."
    ),
]
_Profiled: TypeAlias = Annotated[
    bool, typer.Option("--profile", help="Write flame graphs of all processes (simfl[profile]).")
]
_Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", help="Print only the run's folder.")]


def run_scenario(
    context: typer.Context,
    file: ScenarioFile,
    backend: RunBackend = "ray",
    address: Address = None,
    out: _Out = None,
    seed: _Seed = None,
    overrides: Overrides = [],  # noqa: B006
    baseline: _Baseline = None,
    resume: _Resumed = "never",
    profile: _Profiled = False,
    trust: Trusted = "all",
    quiet: _Quiet = False,
    as_json: AsJson = False,
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
    with starting_ahead(backend, address):
        scenario = load(file, [*overrides, *seeded], trust=trust, address=address)
        if context.obj is OWN_PROCESS:
            gc.freeze()  # what was imported takes each collection of garbage a tenth of a second

        with importing():
            from simfl.simulation import run

        result = run(
            scenario,
            out=out,
            backend=backend,
            address=address,
            progress=not (quiet or as_json),
            resume=resume,
            profile=profile,
            baseline=baseline,
        )
    _print_result(result, quiet=quiet, as_json=as_json)


def _print_result(result: Result, *, quiet: bool, as_json: bool) -> None:
    if as_json:
        print_json(_described(result))
    elif quiet:
        say(result.out, is_exact=True)


def _described(result: Result) -> Ran:
    summary = result.summary
    return {
        "folder": str(result.out),
        "status": summary["status"],
        "rounds": len(result.history),
        "seconds": summary["wall_seconds"],
        "metrics": summary["final"],
    }


def resume_run(
    context: typer.Context,
    folder: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="The folder of a run.", autocompletion=complete_folder),
    ],
    backend: RunBackend = "ray",
    address: Address = None,
    trust: Trusted = "all",
    quiet: _Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Continue a run that was stopped, from its last checkpoint.

    The numbers are those of a run that was never stopped.
    """
    if backend == "inline":
        restart_with_huge_pages(context)

    with importing():
        from simfl.simulation import resume

    is_quiet = quiet or as_json
    result = resume(folder, backend=backend, address=address, progress=not is_quiet, trust=trust)
    _print_result(result, quiet=quiet, as_json=as_json)


def verify_run(
    context: typer.Context,
    folder: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="The folder of a run.", autocompletion=complete_folder),
    ],
    rounds: Annotated[
        int | None, typer.Option(min=1, help="How many rounds to repeat. Default: all.")
    ] = None,
    backend: RunBackend = "ray",
    address: Address = None,
    trust: Trusted = "all",
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a run's first rounds again, and compare the bits of its records and checkpoints.

    The run's folder is only read. Prints one line; the exit code is 1 if anything differs.
    """
    if backend == "inline":
        restart_with_huge_pages(context)

    with importing():
        from simfl.simulation import verify

    is_quiet = quiet or as_json
    verdict = verify(folder, rounds, backend, address=address, progress=not is_quiet, trust=trust)
    if as_json:
        print_json(_verified(folder, verdict))
    else:
        say(f"{folder}: {verdict}")
    if not verdict.is_same:
        raise typer.Exit(FAILED)


def _verified(folder: Path, verdict: Verdict) -> Verified:
    found = verdict.mismatch
    return {
        "folder": str(folder),
        "same": verdict.is_same,
        "rounds": verdict.rounds,
        "checkpoints": list(verdict.checkpoints),
        "weights": verdict.has_weights,
        "mismatch": None
        if found is None
        else {"round": found.round, "what": found.what, "then": found.then, "now": found.now},
    }


OWN_PROCESS: Final = "the process runs one command"
"""The context's object if the process was started for a command, and so may be replaced."""


def restart_with_huge_pages(context: typer.Context) -> None:
    """Replace this process by one that runs the same command with huge pages for large tensors.

    The new process has the same id and the same arguments, including those of Python. Nothing is
    done on systems other than Linux, if the environment sets glibc's tunables already, or if the
    command was called by a program.

    A new process is needed because glibc reads its tunables only when a process starts. A round of
    25 million weights takes 0.8 s with huge pages and 1.3 s without. torch can be switched to huge
    pages later (``THP_MEM_ALLOC_ENABLE``), but only for tensors of 2 MiB and more, each aligned to
    2 MiB: CIFAR-10 CNNs then train as slowly as without, and SCAFFOLD takes 40 % more memory.
    """
    from simfl.cluster.forking import HUGE_PAGES

    is_set = any(name in os.environ for name in HUGE_PAGES)
    if context.obj is not OWN_PROCESS or sys.platform != "linux" or is_set:
        return
    os.environ.update(HUGE_PAGES)
    with suppress(OSError):
        os.execv(sys.executable, sys.orig_argv)
