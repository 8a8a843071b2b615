"""Files in a local folder, and what the errors of any storage mean to the user."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG

from simfl.errors import CheckpointError
from simfl.regular_files import open_regular
from simfl.states.files import Piece

_UNFINISHED = ".unfinished"
CHUNK = 1 << 22
"""How many bytes of a file are read at a time."""

_NO_SPACE = "free some space, keep fewer checkpoints, or choose another place for them"
_NO_PERMISSION = "check its permissions, or choose another place for checkpoints"
_MISSING = "every node of the cluster must see the same folder"
_REMEDIES = {
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    errno.EROFS: _NO_PERMISSION,
}
_ANY_OTHER = "check the storage, or choose another place for checkpoints"


class LocalStorage:
    """Files below a folder; see ``Storage``.

    A file is written under a temporary name, flushed to the disk and renamed. So after a crash,
    even of the machine, there is either the new file or the previous one.

    Args:
        folder: created by the first write.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._folder = folder.expanduser().absolute()
        except RuntimeError as error:  # ~ of an unknown user
            reason = str(error).rstrip(".")
            raise CheckpointError(f"{folder}: {reason}; give the full path") from None

    @property
    def location(self) -> str:
        """The folder's absolute path."""
        return str(self._folder)

    def write(self, name: str, pieces: Iterable[Piece]) -> None:
        """Write a file, whole or not at all; one of that name is replaced."""
        target = self._path(name)
        with explained("write", target):
            _make_folder(target.parent)
            _publish(pieces, target, os.replace)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless one of that name exists; return whether it was written."""
        target = self._path(name)
        with explained("write", target):
            _make_folder(target.parent)
            try:
                _publish([data], target, _link)
            except FileExistsError:
                return False
            except FileNotFoundError:  # its folder was empty, and another process deleted it
                return self.create(name, data)
            return True

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes from start to stop, or to the end of the file."""
        with explained("read", self._path(name)), open_regular(self._path(name)) as file:
            file.seek(start)
            return file.read(-1 if stop is None else stop - start)

    def read_chunks(self, name: str) -> Iterator[bytes]:
        """Iterate over a file's bytes, some megabytes at a time."""
        with explained("read", self._path(name)), open_regular(self._path(name)) as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def list_files(self, folder: str = "") -> dict[str, int]:
        """Return name -> number of bytes of all files below a folder, which may be missing."""
        files = (path for path in self._walk(folder) if not path.name.endswith(_UNFINISHED))
        with explained("list", self._folder):
            found = {p.relative_to(self._folder).as_posix(): p.stat() for p in files}
        # Reading a pipe or a device may never end.
        return {name: stat.st_size for name, stat in found.items() if S_ISREG(stat.st_mode)}

    def delete(self, name: str) -> None:
        """Delete a file if it exists, and its folder if that is empty then."""
        path = self._path(name)
        with explained("delete", path):
            path.unlink(missing_ok=True)
            if path.parent != self._folder:
                with suppress(OSError):  # not empty
                    path.parent.rmdir()
            if path.parent.is_dir():
                _sync_folder(path.parent)

    def delete_tree(self, folder: str) -> None:
        """Delete a folder and its contents, if it exists."""
        path = self._path(folder)
        with explained("delete", path):
            if path.is_dir():
                shutil.rmtree(path)

    def delete_leftovers(self) -> None:
        """Delete the leftovers of interrupted writes; only while no process writes."""
        with explained("delete", self._folder):
            for path in self._walk(""):
                if path.name.endswith(_UNFINISHED):
                    path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        require_plain_name(name)
        return self._folder / name

    def _walk(self, folder: str) -> list[Path]:
        top = self._path(folder) if folder else self._folder
        with explained("list", top):
            if not top.exists():
                return []
            walk = os.walk(top, onerror=_raise)
            return sorted(Path(parent, name) for parent, _, names in walk for name in names)


def _publish(
    pieces: Iterable[Piece], target: Path, publish: Callable[[Path, Path], object]
) -> None:
    """Write a file under a temporary name, and give it its own."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}{_UNFINISHED}")
    try:
        _write_through(temporary, pieces)
        publish(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)


def _link(temporary: Path, target: Path) -> None:
    """Hard-link a file to a second name, unless a file of that name exists."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        _write_through(target, [temporary.read_bytes()])


def _write_through(path: Path, pieces: Iterable[Piece]) -> None:
    with path.open("xb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _make_folder(folder: Path) -> None:
    """Create the folder and its parents, so that they survive a power failure, too."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Flush the folder's entries to the disk, on systems where a folder can be opened."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _raise(error: OSError) -> None:
    raise error


@contextmanager
def explained(doing: str, place: object) -> Iterator[None]:
    """Turn any OSError of the block into a CheckpointError with the place and a remedy."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"cannot {doing} {place}: {_reason(error)}") from None


def require_plain_name(name: str) -> None:
    """Refuse a name that could be outside the storage's folder.

    >>> require_plain_name("../weights")
    Traceback (most recent call last):
    simfl.errors.CheckpointError: '../weights' is not a valid name of a file in a checkpoint
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or any(c in name for c in "\\:\0"):
        raise CheckpointError(f"{name!r} is not a valid name of a file in a checkpoint")


def _reason(error: OSError) -> str:
    """Describe the error and its remedy; not every protocol sets the error's number."""
    if isinstance(error, FileNotFoundError):
        return f"it does not exist; {_MISSING}"
    what = error.strerror or str(error) or type(error).__name__
    if isinstance(error, PermissionError):
        return f"{what}; {_NO_PERMISSION}"
    return f"{what}; {_REMEDIES.get(error.errno or 0, _ANY_OTHER)}"
