"""Where checkpoints and states are: a local folder, or any storage that fsspec supports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from simfl.states.files import Piece
from simfl.states.local_storage import LocalStorage
from simfl.states.remote_storage import RemoteStorage


class Storage(Protocol):
    """Files by name. Names are relative, with ``/`` between folders.

    If the storage fails, every method raises ``CheckpointError`` with the place and a remedy.
    """

    @property
    def location(self) -> str:
        """What ``open_storage`` takes to open it in any process."""

    def write(self, name: str, pieces: Iterable[Piece]) -> None:
        """Write a file, whole or not at all; one of that name is replaced."""

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless one of that name exists; return whether it was written."""

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes from start to stop, or to the end of the file."""

    def read_chunks(self, name: str) -> Iterator[bytes]:
        """Iterate over a file's bytes, some megabytes at a time."""

    def list_files(self, folder: str = "") -> dict[str, int]:
        """Return name -> number of bytes of all files below a folder, which may be missing."""

    def delete(self, name: str) -> None:
        """Delete a file, if it exists."""

    def delete_tree(self, folder: str) -> None:
        """Delete a folder and its contents, if it exists."""

    def delete_leftovers(self) -> None:
        """Delete the leftovers of interrupted writes; only while no process writes."""


def open_storage(location: str | Path) -> Storage:
    """Open a storage; nothing is created before the first write.

    Args:
        location: a local folder, or a URL such as ``s3://bucket/folder``, ``gs://...``,
            ``memory://...`` or ``file:///...``.

    Raises:
        CheckpointError: if the URL's protocol is unknown, or needs a package that is missing.
    """
    protocol, is_url, rest = str(location).partition("://")
    if not is_url:
        return LocalStorage(Path(location))
    if protocol in ("file", "local"):
        return LocalStorage(Path(rest))
    return RemoteStorage(str(location))
