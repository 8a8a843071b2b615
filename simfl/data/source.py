"""What a source is: where examples come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from simfl.component import Component
from simfl.data.dataset import Array, Examples


@dataclass(frozen=True)
class SourceData:
    """What a source holds, before it is split over clients.

    Arrays have the dtypes of ``simfl.data.arrays``: floats are float32, class ids int64.
    """

    train: Examples
    """The examples that clients are to hold."""
    test: Examples | None = None
    """The test split that the source comes with, or None."""
    columns: dict[str, Array] = field(default_factory=dict)
    """Name -> one value per train example, such as "client"; what a partition can go by."""
    class_names: tuple[str, ...] = ()
    """What each class id is called; empty where targets are not class ids or have no names."""


class Source(Component, kind="source"):
    """Where examples come from.

    To write one, override ``load``. It must not depend on anything but the fields, the seed and
    the files that the fields name.
    """

    file_fields: ClassVar[tuple[str, ...]] = ()
    """The fields that name a file. A scenario takes them relative to its own folder, if the file
    is there; otherwise they stay as they are, for a source may know other names."""
    file_or_name_fields: ClassVar[tuple[str, ...]] = ()
    """The fields that may hold the path of a file or folder, or a name."""

    def load(self, *, seed: int) -> SourceData:
        """Read or generate the examples.

        Args:
            seed: the run's; a source without randomness ignores it.

        Raises:
            DataError: for a file that is missing or does not hold what it should.
            MissingExtraError: if the package that reads it is not installed.
        """
        raise NotImplementedError(f"{type(self).__name__} has no load()")


def file_fault(path: str, error: OSError) -> str:
    """Return the reason why a data file cannot be read."""
    if isinstance(error, FileNotFoundError):
        return f"there is no file {path}"
    return f"{path} cannot be read: {error.strerror or error}"
