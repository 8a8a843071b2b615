"""Where checkpoints and states are: a local folder, or any storage that fsspec supports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from simfl.errors import CheckpointError
from simfl.states.files import Piece
from simfl.states.local_storage import CHUNK, LocalStorage, explained, require_plain_name


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


class RemoteStorage:
    """Files below a URL; see ``Storage``.

    A file is written by one put, which is atomic in object stores. With other protocols, a
    truncated file is detected by its checksum.

    Args:
        location: the URL of a folder or prefix.

    Raises:
        CheckpointError: if the protocol is unknown, or needs a package that is missing.
    """

    def __init__(self, location: str) -> None:
        self._location = location.rstrip("/")
        self._system, root = _connect(self._location)
        self._root = root.rstrip("/")

    @property
    def location(self) -> str:
        """The URL."""
        return self._location

    def write(self, name: str, pieces: Iterable[Piece]) -> None:
        """Write a file, whole or not at all; one of that name is replaced."""
        with self._explained("write", name):
            self._put(name, b"".join(pieces), mode="overwrite")

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless one of that name exists; return whether it was written."""
        with self._explained("write", name):
            try:
                self._put(name, data, mode="create")
            except FileExistsError:
                return False
            return True

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes from start to stop, or to the end of the file."""
        # Given limits, some protocols ask for the file's size first.
        limits = {} if stop is None and not start else {"start": start, "end": stop}
        with self._explained("read", name):
            return bytes(self._system.cat_file(self._path(name), **limits))

    def read_chunks(self, name: str) -> Iterator[bytes]:
        """Iterate over a file's bytes, some megabytes at a time."""
        with self._explained("read", name), self._system.open(self._path(name), "rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def list_files(self, folder: str = "") -> dict[str, int]:
        """Return name -> number of bytes of all files below a folder, which may be missing."""
        path = self._path(folder) if folder else self._root
        with self._explained("list", folder):
            self._system.invalidate_cache()
            try:
                self._system.ls(path, detail=False)  # `find` hides errors
            except FileNotFoundError:
                return {}
            found = self._system.find(path, detail=True)
            return {self._name(file): int(info["size"]) for file, info in found.items()}

    def delete(self, name: str) -> None:
        """Delete a file, if it exists."""
        with self._explained("delete", name), suppress(FileNotFoundError):
            self._system.rm_file(self._path(name))

    def delete_tree(self, folder: str) -> None:
        """Delete a folder and its contents, if it exists."""
        with self._explained("delete", folder), suppress(FileNotFoundError):
            self._system.rm(self._path(folder), recursive=True)

    def delete_leftovers(self) -> None:
        """Do nothing: an interrupted put leaves nothing behind."""

    def _put(self, name: str, data: bytes, *, mode: str) -> None:
        path = self._path(name)
        try:
            self._system.pipe_file(path, data, mode=mode)
        except FileNotFoundError:  # with some protocols, folders have to be created
            self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._system.pipe_file(path, data, mode=mode)

    def _path(self, name: str) -> str:
        require_plain_name(name)
        return f"{self._root}/{name}"

    def _name(self, path: str) -> str:
        return path.removeprefix(self._root).lstrip("/")

    @contextmanager
    def _explained(self, doing: str, name: str) -> Iterator[None]:
        place = f"{self._location}/{name}".rstrip("/")
        try:
            with explained(doing, place):
                yield
        except CheckpointError:
            raise
        except Exception as error:  # each protocol has its own error classes
            raise CheckpointError(
                f"cannot {doing} {place}: {type(error).__name__}: {error}; "
                "check the address, the credentials and the network"
            ) from error


def _connect(location: str) -> tuple[Any, str]:
    """Return fsspec's file system and the path within it."""
    import fsspec.core  # type: ignore[import-untyped]

    protocol = location.partition("://")[0]
    try:
        system, root = fsspec.core.url_to_fs(location)
    except ImportError as error:
        raise CheckpointError(_missing_package(location, protocol, error)) from None
    except ValueError as error:
        raise CheckpointError(
            f"{location}: {error}; give a folder, or a URL such as s3://bucket/folder"
        ) from None
    except Exception as error:  # credentials and endpoints, by each protocol's own classes
        raise CheckpointError(
            f"cannot open {location}: {type(error).__name__}: {error}; "
            "check the address, the credentials and the network"
        ) from error
    return system, str(root)


def _missing_package(location: str, protocol: str, error: ImportError) -> str:
    from fsspec.registry import known_implementations  # type: ignore[import-untyped]

    package = known_implementations.get(protocol, {}).get("class", "fsspec").partition(".")[0]
    if package == "fsspec":  # fsspec's own protocols name the missing package
        return f"{location}: {error}"
    return f"{location} needs the package {package!r}; install it with: pip install {package}"
