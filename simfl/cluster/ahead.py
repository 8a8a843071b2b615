"""What comes before a run imports torch: the cluster that another process starts meanwhile."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from simfl.cluster import standing
from simfl.cluster.processes import LastWords, ProcessTree, cpus_of_this_machine
from simfl.cluster.session_folder import SessionFolder, make_session_folder
from simfl.errors import ClusterError

has_imported_ray = False
"""Whether simfl has imported Ray in this process, with its settings for a cluster of its own."""


class OwnCluster:
    """A cluster that another process, its keeper, starts for this run; it ends with this process.

    Args:
        folder: a private one, for its files.
    """

    def __init__(self, folder: SessionFolder) -> None:
        self.num_cpus: Final = cpus_of_this_machine()
        """The CPUs that it counts."""
        self.last_words: Final = LastWords(folder.all)
        self._folder = folder
        self._keeper = subprocess.Popen(
            [sys.executable, "-P", "-m", standing.KEEPER, str(folder.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the driver
            text=True,
        )

    @property
    def processes(self) -> ProcessTree:
        """The keeper and all of Ray's."""
        return ProcessTree([self._keeper.pid])

    def wait(self) -> str | None:
        """Wait until it is up; return its address, ``host:port``, or None if it is not."""
        assert self._keeper.stdout is not None
        return self._keeper.stdout.readline().strip() or None

    def stop(self) -> None:
        """Have the keeper end it, and wait for that."""
        for stream in (self._keeper.stdin, self._keeper.stdout):
            assert stream is not None
            stream.close()
        self._keeper.wait()
        self._folder.remove()
        self.last_words.take_back()

    def kill(self) -> None:
        """End it at once."""
        with suppress(OSError):
            self._keeper.send_signal(signal.SIGSTOP)  # it starts nothing more
        self.processes.kill()
        self._keeper.kill()
        self.stop()


_ahead: OwnCluster | None = None


@contextmanager
def starting_ahead(backend: str, address: str | None) -> Iterator[None]:
    """Start the cluster of a run on Ray; it ends if the run has not used it by the end.

    A run that needs another one, which is known later, starts it by itself.

    Args:
        backend: of the run.
        address: given by the user, of a cluster.
    """
    global _ahead
    own = address in (None, "local") and "RAY_ADDRESS" not in os.environ
    own &= sys.platform == "linux" and ("ray" not in sys.modules or has_imported_ray)
    if _ahead is None and backend == "ray" and own and not (is_in_session() or standing.find()):
        with suppress(ClusterError):  # the run's own attempt reports it
            folder = make_session_folder()
            _ahead = None if folder is None else OwnCluster(folder)
    try:
        yield
    finally:
        take()  # which ends it


def take(num_cpus: int | None = None) -> OwnCluster | None:
    """Return the cluster that was started ahead, if there is one that is not taken yet.

    Args:
        num_cpus: the CPUs that it is to count; if it does not, it is ended.
    """
    global _ahead
    taken, _ahead = _ahead, None
    if taken is None or taken.num_cpus == num_cpus:
        return taken
    taken.kill()
    return None


def is_in_session() -> bool:
    """Return whether this process takes part in a Ray session."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


@contextmanager
def importing() -> Iterator[None]:
    """Pause garbage collections while modules are imported; they find nothing, and take a tenth.

    Ctrl-C and SIGTERM wait for the end: numpy, broken off halfway, cannot be imported again, which
    torch does, so that the user would see an ImportError.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    mask = _mask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
        _mask(signal.SIG_SETMASK, mask)


def _mask(how: int, signals: Collection[int]) -> Collection[int]:
    """Change which signals wait, and return those that did; Windows has no such mask."""
    return signal.pthread_sigmask(how, signals) if sys.platform != "win32" else ()
