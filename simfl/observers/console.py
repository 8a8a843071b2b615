"""A console for lines, and for a block beneath them that is redrawn while something runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from simfl.errors import printable


class RunConsole(Console):
    """Prints nothing more once its reader has left, as behind ``| head``: the run continues."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print with control characters escaped, so that a terminal does not execute any."""
        shown = (printable(each) if isinstance(each, str) else each for each in objects)
        super().print(*shown, **options)

    def on_broken_pipe(self) -> None:
        """Discard further output, also what others write to the same stream."""
        self.quiet = True
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self.file.fileno())


def say(console: Console, text: str) -> None:
    """Print text as it is: no markup, no colours, no line breaks of its own."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


class LiveBlock:
    """A block at the bottom of a terminal, redrawn several times a second until it is stopped.

    Args:
        console: of a terminal. What is printed on it meanwhile appears above the block.
        draw: returns the block.
        per_second: how often.
    """

    def __init__(
        self, console: Console, draw: Callable[[], RenderableType], *, per_second: float
    ) -> None:
        self._live = Live(console=console, get_renderable=draw, refresh_per_second=per_second)
        self._live.start()

    def stop(self) -> None:
        """Leave the block as it is now."""
        self._live.stop()


def grid(rows: Iterable[tuple[RenderableType, ...]]) -> Table:
    """Return rows of cells, one space apart."""
    table = Table.grid(padding=(0, 1))
    for row in rows:
        table.add_row(*row)
    return table


def bar(completed: float, total: float, *, width: int) -> ProgressBar:
    """Return a bar that is filled as far as the work is done."""
    return ProgressBar(total=total, completed=completed, width=width)


def clipped(text: str) -> Text:
    """Return text that stays on one line, with an ellipsis where it does not fit."""
    return Text(text, no_wrap=True, overflow="ellipsis")
