"""Read regular files from untrusted sources, up to a maximum size, and replace files atomically.

Opening a named pipe may block forever; a device may have no end, or react to being opened.
"""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

__all__ = ["open_regular", "read_regular", "replacing"]

_LIMIT: Final = 1 << 28
_KINDS: Final = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file for reading its bytes.

    Raises:
        OSError: if it cannot be read, or is not a regular file; ``strerror`` names the kind.
    """
    _require_regular(os.stat(path), path)  # before it is opened: some devices react to that
    # If it was replaced by a pipe in the meantime, opening it does not block.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        _require_regular(os.fstat(descriptor), path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | Path, *, limit: int = _LIMIT) -> bytes:
    """Return a file's bytes.

    Args:
        path: the file.
        limit: the maximum size in bytes.

    Raises:
        OSError: as ``open_regular``, and if it has more bytes.
    """
    with open_regular(path) as file:
        # The size is checked first: a sparse file takes no disk space, but all of its size in
        # memory.
        data = b"" if os.fstat(file.fileno()).st_size > limit else file.read(limit + 1)
        if len(data) > limit or os.fstat(file.fileno()).st_size > limit:
            raise OSError(errno.EFBIG, f"it has more than {limit:,} bytes", str(path))
        return data


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Create a file next to ``path``, to be written in the block, and then move it to ``path``.

    An exception in the block deletes it; a previous file at ``path`` is unchanged then.

    Raises:
        OSError: if the file cannot be created or moved.
    """
    # A unique name, and only a new file: in a shared folder, there may be a link at a known name.
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.unfinished")
    aside.touch(exist_ok=False)
    try:
        yield aside
        os.replace(aside, path)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise


def _require_regular(found: os.stat_result, path: str | Path) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(found.st_mode):
        what = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise OSError(errno.EINVAL, f"it is {what}, not a regular file", str(path))
