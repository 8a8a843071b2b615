"""Interruption: Ctrl-C stops the trials in good order, and a second one at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_GRACE_S = 15.0
"""How long trials may take to stop, before they are killed."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Knows whether a person, or who runs the machine, has asked for an end.

    Args:
        say: is told a line when that happens.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.is_asked = False
        self._say = say

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Note a signal that comes meanwhile; one that comes later, or no end in time, ends it."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals are the main thread's
            return
        timer = threading.Timer(_GRACE_S, signal.raise_signal, [signal.SIGINT])
        timer.daemon = True

        def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            if self.is_asked:
                raise KeyboardInterrupt
            self.is_asked = True
            self._say("stopping the trials; once more to stop at once")
            timer.start()

        former = {number: signal.signal(number, ask) for number in _SIGNALS}
        try:
            yield
        except KeyboardInterrupt:
            self.is_asked = True
        finally:
            timer.cancel()
            for number, handler in former.items():
                signal.signal(number, handler)
