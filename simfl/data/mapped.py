"""Arrays that stay in files: what stands for them when they are sent to another process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from simfl.errors import DataError

Array: TypeAlias = "np.ndarray[Any, Any]"

_MISSING: Final = (-1, -1)


@dataclass(frozen=True)
class MappedArray:
    """Where an array is in a file, which every process opens by itself."""

    path: str
    offset: int
    shape: tuple[int, ...]
    dtype: str
    stamp: tuple[int, int]
    """The file's size, and when it was written, in ns."""

    @staticmethod
    def of(array: Any) -> Any:
        """Return what stands for an array that is mapped from a file; others as they are."""
        mapped = array.base if isinstance(getattr(array, "base", None), np.memmap) else array
        if not isinstance(mapped, np.memmap) or not array.flags.c_contiguous:
            return array
        path = os.path.abspath(str(mapped.filename))
        offset = mapped.offset + array.ctypes.data - mapped.ctypes.data
        return MappedArray(path, offset, array.shape, array.dtype.str, _stamp(path))

    def open(self) -> Array:
        """Map the array.

        Raises:
            DataError: if there is no such file here, or it has changed.
        """
        found_stamp, node = _stamp(self.path), os.uname().nodename
        if found_stamp == _MISSING:
            raise DataError(
                f"{self.path} is not there on {node}; put the folder at the same place on all nodes"
            )
        if found_stamp != self.stamp:
            raise DataError(
                f"{self.path} has another size or time of writing on {node} than where the run "
                "began; copy the folder with its times (rsync -a), and leave it alone during a run"
            )
        found = np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
        return np.asarray(found)


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return _MISSING
    return status.st_size, status.st_mtime_ns
