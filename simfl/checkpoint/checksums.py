"""Checksums of files, of memory that is yet to be written and of what a storage holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from simfl.checkpoint.layout import Piece
from simfl.checkpoint.storage import Storage
from simfl.errors import CheckpointError


@dataclass(frozen=True)
class Checksum:
    """How to know a file again."""

    sha256: str
    """In hex digits."""
    num_bytes: int

    @classmethod
    def of(cls, pieces: Iterable[Piece]) -> Checksum:
        """Take the checksum of pieces that follow one another.

        >>> Checksum.of([b"ab", b"c"]) == Checksum.of([b"abc"])
        True
        """
        digest, num_bytes = hashlib.sha256(), 0
        for piece in pieces:
            digest.update(piece)
            num_bytes += len(piece)
        return cls(digest.hexdigest(), num_bytes)


def require_size(files: Mapping[str, int], name: str, expected: Checksum) -> None:
    """Check that a file has the expected size, before it is read.

    Args:
        files: name -> number of bytes, as a storage lists them.
        name: the file's.
        expected: what it should be.

    Raises:
        CheckpointError: if not. A missing file is reported when it is read.
    """
    if files.get(name, expected.num_bytes) != expected.num_bytes:
        raise CheckpointError(f"{name} has {files[name]:,} bytes, not {expected.num_bytes:,}")


def require_whole(storage: Storage, name: str, expected: Checksum) -> None:
    """Read a file, some megabytes at a time, and compare.

    Raises:
        CheckpointError: if it is another, or cannot be read.
    """
    if Checksum.of(storage.read_chunks(name)) != expected:
        raise CheckpointError(f"{name} does not match its checksum")
