"""A folder of one's own for the files of a Ray cluster that a run starts.

Ray's default is one folder for all users of a machine, ``/tmp/ray``, whose sessions and sockets
are open to each of them; and the path of a socket may have no more than 107 bytes, of which Ray
takes some 65.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from simfl.errors import ClusterError

__all__ = ["SessionFolder", "make_session_folder"]

_PREFIX: Final = "simfl-"
_SHORT: Final = ("/tmp", "/var/tmp", "/dev/shm")
_MOST_BYTES: Final = 24
"""How long the path may be of the place in which a folder for sockets is made."""


class SessionFolder:
    """A folder that only this user may enter, until it is removed.

    Args:
        path: where it is; Ray's files are in ``ray`` in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _lock(path)

    @property
    def all(self) -> list[Path]:
        """What there is to be removed: the folder, and where it leads to."""
        return _all_of(self.path)

    def remove(self) -> None:
        """Remove it with all that is in it."""
        _remove(self.path)
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def make_session_folder() -> SessionFolder | None:
    """Make a folder, and remove those of runs that were killed; None where the user names a place.

    It is made where temporary files are (``TMPDIR``). If that path is too long for sockets, there
    is a link to it in a short one.

    Raises:
        ClusterError: if there is no place for it.
    """
    if "RAY_TMPDIR" in os.environ or os.name != "posix":
        return None
    place = tempfile.gettempdir()
    try:
        if len(os.fsencode(place)) <= _MOST_BYTES:
            return SessionFolder(_make_in(place))
        folder = SessionFolder(_make_in_a_short_place())
        target = Path(_make_in(place), "ray")
        target.mkdir()
        (folder.path / "ray").symlink_to(target)
    except OSError as error:
        raise ClusterError(
            f"there is no place for the files of a Ray cluster: {error}; set TMPDIR to a folder "
            "that can be written to"
        ) from error
    return folder


def _make_in_a_short_place() -> Path:
    for place in _SHORT[:-1]:
        with suppress(OSError):
            return _make_in(place)
    return _make_in(_SHORT[-1])


def _make_in(place: str) -> Path:
    _remove_leftovers(place)
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))  # for this user alone: mode 0700


def _remove_leftovers(place: str) -> None:
    """Remove what was left by processes that have ended since: nobody holds its lock."""
    for left in Path(place).glob(f"{_PREFIX}*/lock"):
        with suppress(OSError):
            folder = left.parent
            is_own = not folder.is_symlink() and folder.stat().st_uid == os.getuid()
            if is_own and (lock := _lock(folder)) is not None:
                _remove(folder)
                lock.close()


def _lock(folder: Path) -> IO[Any] | None:
    """Hold a lock for as long as this process is there; None if another one does."""
    import fcntl

    file = (folder / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def _remove(folder: Path) -> None:
    for part in _all_of(folder):
        shutil.rmtree(part, ignore_errors=True)


def _all_of(folder: Path) -> list[Path]:
    link = folder / "ray"
    return [link.resolve().parent, folder] if link.is_symlink() else [folder]
