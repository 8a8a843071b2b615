"""Where a run's lines go: the terminal, a file, or a pipe whose reader may leave."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console

from simfl.errors import printable


class RunConsole(Console):
    """Falls silent once nobody reads on, as behind ``| head``: the run goes on nevertheless."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print with control characters escaped, so that a terminal executes none."""
        shown = (printable(each) if isinstance(each, str) else each for each in objects)
        super().print(*shown, **options)

    def on_broken_pipe(self) -> None:
        """Send what is still to come nowhere, also what others write to the same stream."""
        self.quiet = True
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self.file.fileno())
