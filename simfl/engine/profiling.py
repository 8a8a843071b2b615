"""What a process does with its time, as a flame graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simfl.errors import MissingExtraError

if TYPE_CHECKING:
    import pyinstrument

INTERVAL_S = 0.005
"""How long from one look at the stack to the next: some hundred bytes are kept of each."""


def require_profiler() -> None:
    """See that the profiler is installed.

    Raises:
        MissingExtraError: if it is not.
    """
    try:
        import pyinstrument  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("--profile", package="pyinstrument", extra="profile") from error


class Sampling:
    """Looks at the stack of the thread that made it, from then on until it is asked to render."""

    def __init__(self) -> None:
        import pyinstrument

        self._profiler: pyinstrument.Profiler = pyinstrument.Profiler(
            interval=INTERVAL_S, async_mode="disabled"
        )
        self._profiler.start()

    def render(self) -> str:
        """Stop, and return a page with the flame graph and the call tree; by the same thread."""
        self._profiler.stop()
        return self._profiler.output_html()
