"""What commands print: text, tables and JSON; and the exit codes they end with."""

from __future__ import annotations

import functools
import json
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, ParamSpec

import typer

from simfl.errors import (
    ClientError,
    Fault,
    InputError,
    MissingExtraError,
    ScenarioError,
    SimflError,
    one_line,
    own_line,
    printable,
)

if TYPE_CHECKING:
    from simfl.cli.json_output import Error

P = ParamSpec("P")

FAILED: Final = 1
BAD_INPUT: Final = 2
INTERRUPTED: Final = 130


def exit_codes(command: Callable[P, None]) -> Callable[P, None]:
    """Let a command print simfl's own errors without a traceback, and exit with their code.

    With ``--json``, they are printed on stdout as JSON. Any other exception is a bug in simfl or in
    a user's code: its traceback is shown.
    """

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (KeyboardInterrupt, SimflError, typer.BadParameter) as error:
            if kwargs.get("as_json"):
                print_json({"errors": errors_of(error)})
            elif isinstance(error, typer.BadParameter):
                raise
            else:
                typer.echo(printable(_text(error)), err=True)
            raise typer.Exit(_code(error)) from None

    return guarded


def _code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    is_input = isinstance(error, InputError | MissingExtraError | typer.BadParameter)
    return BAD_INPUT if is_input else FAILED


def _text(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted"
    if isinstance(error, ClientError):
        return f"{error}\n\n{error.client_traceback.rstrip()}"
    trace = own_traceback(error)
    return f"{error}\n\n{trace}" if trace else str(error)


def own_traceback(error: BaseException) -> str:
    """Return the traceback of an exception in the user's code that caused the error, or ""."""
    cause = error.__cause__
    if not isinstance(error, ScenarioError) or cause is None or not own_line(cause):
        return ""
    return "".join(traceback.format_exception(cause)).rstrip()


def errors_of(error: BaseException) -> list[Error]:
    """Describe an exception: of a scenario, each of its faults."""
    kind = type(error).__name__
    if isinstance(error, ScenarioError):
        trace = own_traceback(error) or None
        return [_described(kind, fault, trace) for fault in error.faults]
    trace = error.client_traceback if isinstance(error, ClientError) else None
    if not isinstance(error, SimflError | KeyboardInterrupt | typer.BadParameter):
        trace = "".join(traceback.format_exception(error)).rstrip()
    return [_described(kind, Fault.at("", "", str(error) or kind), trace)]


def _described(kind: str, fault: Fault, trace: str | None) -> Error:
    return {
        "kind": kind,
        "message": str(fault),
        "file": fault.file,
        "line": fault.number,
        "key": fault.key,
        "value": fault.value,
        "remedy": fault.remedy,
        "traceback": trace,
    }


def say(text: object, *, err: bool = False, is_exact: bool = False) -> None:
    """Print text with its control characters escaped, so that a terminal does not execute any.

    Args:
        text: what to print.
        err: whether to print to standard error.
        is_exact: whether to escape nothing if the output is not a terminal.
    """
    stream = sys.stderr if err else sys.stdout
    shown = str(text) if is_exact and not stream.isatty() else printable(str(text))
    typer.echo(shown, err=err)


def print_json(plain: Any) -> None:
    """Print plain data as JSON, with null for NaN and infinity, which JSON cannot represent."""
    text = json.dumps(finite(plain), indent=2, ensure_ascii=False, allow_nan=False, default=str)
    say(text, is_exact=True)


def finite(value: Any) -> Any:
    """Return plain data with None in place of NaN and infinity.

    >>> finite({"loss": float("nan"), "values": (1.0, float("inf"))})
    {'loss': None, 'values': [1.0, None]}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, title: str) -> None:
    """Print a title and, if there are rows, a table with a header beneath it.

    On a terminal the table is drawn, anywhere else it is plain aligned text. Control characters in
    cells are escaped.
    """
    title, header = one_line(title), list(map(one_line, header))
    rows = [list(map(one_line, row)) for row in rows]
    if sys.stdout.isatty():
        _print_drawn(header, rows, title)
    else:
        _print_plain(header, rows, title)


def _print_drawn(header: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    console.print(Text(title, style="bold"))
    if not rows:
        return
    table = Table(*header, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _print_plain(header: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    say(f"# {title}")
    if not rows:
        return
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        say("  ".join(cells).rstrip())
    say("")
