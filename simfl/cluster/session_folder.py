"""A private folder for the files of a Ray cluster that a run starts.

Ray's default, ``/tmp/ray``, is shared by all users of a machine, who can access its sessions and
sockets. The path of a socket may have at most 107 bytes, of which Ray uses some 65.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from simfl.errors import ClusterError

_PREFIX: Final = "simfl-"
_SHORT: Final = ("/tmp", "/var/tmp", "/dev/shm")
_MOST_BYTES: Final = 24
"""The maximum length of the path in which a folder for sockets is created."""


class SessionFolder:
    """A folder that only this user may enter, until it is removed.

    Args:
        path: its path; Ray's files are in its subfolder ``ray``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _lock(path)

    @property
    def is_locked(self) -> bool:
        """Whether this process has the folder's lock, so that no other process uses it."""
        return self._lock is not None

    @property
    def all(self) -> list[Path]:
        """The folders to remove: this one, and the target of its link."""
        link = self.path / "ray"
        return [link.resolve().parent, self.path] if link.is_symlink() else [self.path]

    def remove(self) -> None:
        """Remove it with all of its files."""
        for part in self.all:
            shutil.rmtree(part, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def make_session_folder() -> SessionFolder | None:
    """Create a folder, and remove those of killed runs; return None if the user has set one.

    It is created in the folder for temporary files (``TMPDIR``). If that path is too long for
    sockets, a folder at a short path links to it.

    Raises:
        ClusterError: if it cannot be created.
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
            f"cannot create a folder for the files of a Ray cluster: {error}; set TMPDIR to a "
            "writable folder"
        ) from error
    return folder


def _make_in_a_short_place() -> Path:
    for place in _SHORT[:-1]:
        with suppress(OSError):
            return _make_in(place)
    return _make_in(_SHORT[-1])


def _make_in(place: str) -> Path:
    _remove_leftovers(place)
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))  # only for this user: mode 0700


def _remove_leftovers(place: str) -> None:
    """Remove this user's folders that no process uses."""
    for lock in Path(place).glob(f"{_PREFIX}*/lock"):
        with suppress(OSError):
            path = lock.parent
            if path.is_symlink() or path.stat().st_uid != os.getuid():
                continue
            folder = SessionFolder(path)
            if folder.is_locked:
                folder.remove()


def _lock(folder: Path) -> IO[Any] | None:
    """Take a lock until this process ends; return None if another process holds it."""
    import fcntl

    file = (folder / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
