"""Tables: drawn on a terminal, plain aligned text anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

__all__ = ["print_table"]


def print_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None
) -> None:
    """Print a table with a header."""
    if sys.stdout.isatty():
        _print_drawn(header, rows, title)
    else:
        _print_plain(header, rows, title)


def _print_drawn(header: Sequence[str], rows: Sequence[Sequence[str]], title: str | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in header:
        table.add_column(name)
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def _print_plain(header: Sequence[str], rows: Sequence[Sequence[str]], title: str | None) -> None:
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if title is not None:
        typer.echo(f"# {title}")
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())
    typer.echo()
