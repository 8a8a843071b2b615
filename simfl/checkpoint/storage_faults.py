"""What the errors of a storage mean to the user, and which names it takes."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from simfl.errors import CheckpointError

_NO_SPACE = "free some space, keep fewer checkpoints, or choose another place for them"
_NO_PERMISSION = "check its permissions, or choose another place for checkpoints"
_MISSING = "every node of the cluster must see the same folder"
_REMEDIES = {
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    errno.EROFS: _NO_PERMISSION,
}
_ANY_OTHER = "check the storage, or choose another place for checkpoints"


@contextmanager
def explained(doing: str, place: object) -> Iterator[None]:
    """Turn any OSError of the block into a CheckpointError with the place and a remedy."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"cannot {doing} {place}: {_reason(error)}") from None


def require_plain_name(name: str) -> None:
    """Refuse a name that could lead out of the storage's folder.

    >>> require_plain_name("../weights")
    Traceback (most recent call last):
    simfl.errors.CheckpointError: '../weights' is no name of a file in a checkpoint
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or any(c in name for c in "\\:\0"):
        raise CheckpointError(f"{name!r} is no name of a file in a checkpoint")


def _reason(error: OSError) -> str:
    """Say what is wrong, and what to do; not every protocol sets the error's number."""
    if isinstance(error, FileNotFoundError):
        return f"it is not there; {_MISSING}"
    what = error.strerror or str(error) or type(error).__name__
    if isinstance(error, PermissionError):
        return f"{what}; {_NO_PERMISSION}"
    return f"{what}; {_REMEDIES.get(error.errno or 0, _ANY_OTHER)}"
