"""Tables: drawn on a terminal, plain aligned text anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from simfl.errors import one_line, printable


def say(text: object, *, err: bool = False, is_exact: bool = False) -> None:
    """Print text with its control characters escaped, so that a terminal executes none.

    Args:
        text: what is printed.
        err: whether to standard error.
        is_exact: whether to leave it as it is if the output is not a terminal.
    """
    stream = sys.stderr if err else sys.stdout
    shown = str(text) if is_exact and not stream.isatty() else printable(str(text))
    typer.echo(shown, err=err)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, title: str) -> None:
    """Print a title and, if there are rows, a table with a header beneath it.

    Whatever cells hold, a terminal shows it and obeys nothing.
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
    table = Table(box=box.SIMPLE_HEAD)
    for name in header:
        table.add_column(name)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _print_plain(header: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    say(f"# {title}")
    if not rows:
        return
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        say("  ".join(cells).rstrip())
    say("")
