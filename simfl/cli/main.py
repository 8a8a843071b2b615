"""``simfl``: the application, its commands and its entry point."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Annotated, NoReturn

import typer

from simfl.cli.cluster import start_cluster, stop_cluster
from simfl.cli.components import list_components, print_schema
from simfl.cli.doctor import diagnose
from simfl.cli.help import GroupedHelp, PlainHelp
from simfl.cli.new import new_scenario, show_scenario
from simfl.cli.output import INTERRUPTED, exit_codes, say
from simfl.cli.report import report_runs
from simfl.cli.run import OWN_PROCESS, resume_run, run_scenario, verify_run
from simfl.cli.runs import compare_runs, export_run, list_runs
from simfl.cli.scenarios import describe_data, plan_run, validate_scenarios
from simfl.cli.sweep import sweep_scenario

app = typer.Typer(
    name="simfl",
    cls=GroupedHelp,
    no_args_is_help=True,
    # Plain text: with markup, typer imports rich before the command is known.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
_COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Run": {
        "run": run_scenario,
        "resume": resume_run,
        "sweep": sweep_scenario,
        "up": start_cluster,
        "down": stop_cluster,
    },
    "Scenarios": {
        "new": new_scenario,
        "show": show_scenario,
        "validate": validate_scenarios,
        "plan": plan_run,
        "data": describe_data,
    },
    "Results": {
        "ls": list_runs,
        "compare": compare_runs,
        "report": report_runs,
        "verify": verify_run,
        "export": export_run,
    },
    "Reference": {"list": list_components, "schema": print_schema, "doctor": diagnose},
}
"""By the group in which help lists them."""
for _group, _commands in _COMMANDS.items():
    for _name, _command in _commands.items():
        app.command(_name, cls=PlainHelp, rich_help_panel=_group)(exit_codes(_command))


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from simfl.version import __version__

        typer.echo(f"simfl {__version__}")
        raise typer.Exit


@app.callback()
def _simfl(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Simulate federated learning on Ray: one YAML scenario, one command.

    Exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted.
    """


def main() -> None:
    """Run the command line, and exit with its code."""
    signal.signal(signal.SIGTERM, _interrupt)
    # Ray, among others, needs both, even if they are closed.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    try:
        app(obj=OWN_PROCESS)
    except KeyboardInterrupt:  # before it was known which command it is
        say("interrupted", err=True)
        sys.exit(INTERRUPTED)


def _interrupt(signal_number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    """Handle SIGTERM as Ctrl-C."""
    raise KeyboardInterrupt
