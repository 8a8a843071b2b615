"""``simfl``: the application, its commands and its entry point."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer

from simfl.cli.compare_runs import compare_runs
from simfl.cli.describe_data import describe_data
from simfl.cli.huge_pages import restart_with_huge_pages
from simfl.cli.list_components import list_components
from simfl.cli.list_runs import list_runs
from simfl.cli.plan_run import plan_run
from simfl.cli.print_schema import print_schema
from simfl.cli.report_runs import report_runs
from simfl.cli.resume_run import resume_run
from simfl.cli.run_scenario import run_scenario
from simfl.cli.sweep_scenario import sweep_scenario
from simfl.cli.validate_scenarios import validate_scenarios

app = typer.Typer(
    name="simfl",
    no_args_is_help=True,
    add_completion=False,
    # Plain text, and no rich to import before it is known what is asked for.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run_scenario)
app.command("plan")(plan_run)
app.command("resume")(resume_run)
app.command("sweep")(sweep_scenario)
app.command("ls")(list_runs)
app.command("compare")(compare_runs)
app.command("report")(report_runs)
app.command("validate")(validate_scenarios)
app.command("data")(describe_data)
app.command("list")(list_components)
app.command("schema")(print_schema)


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
    if {"inline", "--backend=inline"} & set(sys.argv):
        restart_with_huge_pages()
    signal.signal(signal.SIGTERM, _interrupt)
    app()


def _interrupt(signal_number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    """Let a request to terminate end things as Ctrl-C does."""
    raise KeyboardInterrupt
