"""PartFiles: a table on disk that grows, and can be read at any moment.

A Parquet file cannot be read without its footer, so a process that is killed would lose a single
file. Instead this is a folder of complete files, which readers treat as one table. The last file is
rewritten aside and renamed until it is large enough; so there are few files however often a run
saves, and no row appears twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import pyarrow as pa
from simfl.regular_files import open_regular, replacing

T = TypeVar("T")
"""The rows of a round, in any form."""

CLOSED_ROWS = 1 << 14
"""A file with this many rows is not rewritten; a smaller one takes milliseconds to rewrite."""

WAITING_ROWS = 1 << 17
"""The number of waiting rows that are written at the latest."""

WAITING_S = 10.0
"""The time after which the next rows are written with those that wait, which a kill would lose."""


class PartFiles(Generic[T]):
    """Writes rounds as Parquet files ``part-000001.parquet`` and on.

    Args:
        folder: created with the first file.
        to_table: returns the table of rounds; one of its columns is ``round``.
        count_rows: returns the number of rows of a round.
        now: returns the time in seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        to_table: Callable[[Sequence[T]], pa.Table],
        count_rows: Callable[[T], int],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._to_table = to_table
        self._count_rows = count_rows
        self._now = now
        self._written_at = now()
        self._number = 1
        self._head: pa.Table | None = None
        self._waiting: list[T] = []
        self._num_waiting = 0

    def begin(self, *, done: int) -> None:
        """Keep the rows of the first ``done`` rounds, and continue after them.

        Raises:
            OSError: if a file cannot be read or written.
        """
        if not self._folder.exists():
            return
        for leftover in self._folder.glob(".*.unfinished"):
            leftover.unlink()
        kept = [number for number in self._numbers() if self._keep(number, done=done)]
        if not kept:
            return
        table = _read(self._path(kept[-1]))
        is_closed = table.num_rows >= CLOSED_ROWS
        self._number = kept[-1] + is_closed
        self._head = None if is_closed else table

    def add(self, rows: T) -> None:
        """Add a round, unless it has no rows, and write what is waiting if it is due."""
        if not self._count_rows(rows):
            return
        self._waiting.append(rows)
        self._num_waiting += self._count_rows(rows)
        if self._num_waiting >= WAITING_ROWS or self._now() - self._written_at >= WAITING_S:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting.

        Raises:
            OSError: if it fails; earlier files are intact.
        """
        if not self._waiting:
            return
        self._folder.mkdir(exist_ok=True)
        table = _joined(self._head, self._to_table(self._waiting))
        _write(self._path(self._number), table)
        self._waiting, self._num_waiting, self._written_at = [], 0, self._now()
        is_closed = table.num_rows >= CLOSED_ROWS
        self._number += is_closed
        self._head = None if is_closed else table

    def _keep(self, number: int, *, done: int) -> bool:
        """Remove the rows of later rounds from a file; return whether rows are left."""
        import pyarrow.compute as pc

        path = self._path(number)
        first, last = _rounds(path)
        if first > done:
            path.unlink()
        elif last > done:
            _write(path, _read(path).filter(pc.field("round") <= done))
        return first <= done

    def _numbers(self) -> list[int]:
        return sorted(int(path.stem[5:]) for path in self._folder.glob("part-*.parquet"))

    def _path(self, number: int) -> Path:
        return self._folder / f"part-{number:06d}.parquet"


def _joined(head: pa.Table | None, tail: pa.Table) -> pa.Table:
    import pyarrow as pa

    if head is None:
        return tail
    return pa.concat_tables([head, tail]).unify_dictionaries().combine_chunks()


def _read(path: Path) -> pa.Table:
    import pyarrow.parquet as pq

    with open_regular(path) as raw, pq.ParquetFile(raw) as file:
        return file.read()


def _rounds(path: Path) -> tuple[int, int]:
    """Return the first and the last round of a file, from its footer."""
    import pyarrow.parquet as pq

    with open_regular(path) as raw:
        metadata = pq.read_metadata(raw)
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    index = metadata.schema.names.index("round")
    found = [group.column(index).statistics for group in groups]
    return min(each.min for each in found), max(each.max for each in found)


def _write(path: Path, table: pa.Table) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    is_float = {field.name: pa.types.is_floating(field.type) for field in table.schema}
    with replacing(path) as aside:
        pq.write_table(
            table,
            aside,
            compression="zstd",
            # Losses and seconds hardly repeat: they compress better with their bytes split by
            # position.
            use_dictionary=[name for name, found in is_float.items() if not found],
            column_encoding={n: "BYTE_STREAM_SPLIT" for n, found in is_float.items() if found},
        )
