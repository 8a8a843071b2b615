"""A table in a CSV file: one array per column, with errors that name line and column."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

import numpy as np

from simfl.data.dataset import Array
from simfl.data.source import file_fault
from simfl.data.sources.table_source import TableSource
from simfl.data.table import Table, begins_with_number, ids_of, is_blank, numbers_of
from simfl.errors import ConfigError, DataError
from simfl.regular_files import open_regular

if TYPE_CHECKING:
    from _csv import Reader

_CHUNK_ROWS: Final = 20_000  # limits how many cells are Python strings at a time

_Lines: TypeAlias = list[tuple[int, list[str]]]
"""Line number and cells of each row."""


@dataclass(frozen=True)
class CsvFile(TableSource):
    """A table with a header, one example per line: features, a target, perhaps a client.

    A column is numeric if its first cell that is not missing (empty, "?", "NA" or the like) is a
    number; then all of its cells must be numbers, in plain digits, or missing if ``missing`` allows
    it. Columns that are not in ``features`` are not checked. A numeric target of whole numbers
    without a decimal point is class ids, other numbers are float32, and text becomes class ids in
    sorted order. Columns that are neither features nor target can be used by a partition.

    Inputs have shape (N, features), float32, unless categories are encoded by ``index``: then the
    model is called with ``categories``, (N, columns) int64, and ``numbers``. Encodings are fitted
    to what all clients train on.
    """

    name: ClassVar[str] = "csv"

    delimiter: str = ","
    """The character between cells."""

    def check(self) -> None:
        """Check the delimiter, too."""
        super().check()
        if len(self.delimiter) != 1:
            raise ConfigError(f"csv: delimiter is {self.delimiter!r}; it must be one character")

    def read_header(self, path: str) -> tuple[str, ...]:
        """Return the names of a file's columns."""
        return _read_header(path, delimiter=self.delimiter)

    def read_table(self, path: str, *, text: Collection[str]) -> Table:
        """Read a file."""
        gaps = self.missing != "refuse"
        return _read_table(path, delimiter=self.delimiter, text=text, has_gaps=gaps)

    def mark_missing(self, column: Array) -> Array:
        """Return a column of text with "" for what stands for a missing value."""
        cells = column.astype(str)
        return np.where(np.fromiter(map(is_blank, cells), bool, len(cells)), "", cells)


def _read_header(path: str, *, delimiter: str = ",") -> tuple[str, ...]:
    """Return the names of a CSV file's columns.

    Raises:
        DataError: if there is no such file, or its first line names no columns.
    """
    with _opened(path, delimiter=delimiter) as reader:
        return _header(reader, path=path)


def _read_table(
    path: str,
    *,
    delimiter: str = ",",
    text: Collection[str] = frozenset(),
    has_gaps: bool = False,
) -> Table:
    """Read a CSV file.

    Args:
        path: the file.
        delimiter: the character between cells.
        text: columns that are ids or text even if their first cells are numbers; if all cells
            are whole numbers, they become int64.
        has_gaps: whether cells of a numeric column may be missing; they become NaN.

    Raises:
        DataError: if there is no such file, it has no header or no rows, a row has too few or too
            many cells, or a cell of a numeric column is not a finite number.
    """
    with _opened(path, delimiter=delimiter) as reader:
        header = _header(reader, path=path)
        rows = ((reader.line_num, cells) for cells in reader if cells)
        chunks = list(_chunks(rows, header, text=text, has_gaps=has_gaps, path=path))
    if not chunks:
        raise DataError(f"{path} has a header but no rows")
    columns = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in header}
    return Table(path, {n: ids_of(c) if n in text else c for n, c in columns.items()})


@contextmanager
def _opened(path: str, *, delimiter: str) -> Iterator[Reader]:
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as file:
            yield csv.reader(file, delimiter=delimiter, strict=True)
    except OSError as error:
        raise DataError(file_fault(path, error)) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from error


def _header(reader: Reader, *, path: str) -> tuple[str, ...]:
    names = next(reader, [])
    if not names:
        raise DataError(f"{path} is empty; its first line must name the columns")
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{path}: two columns are called {twice[0]!r}; rename one")
    return tuple(names)


def _chunks(
    rows: Iterator[tuple[int, list[str]]],
    header: tuple[str, ...],
    *,
    text: Collection[str],
    has_gaps: bool,
    path: str,
) -> Iterator[dict[str, Array]]:
    numeric: set[str] | None = None
    while lines := list(itertools.islice(rows, _CHUNK_ROWS)):
        _require_width(lines, len(header), path=path)
        if numeric is None:
            cells = dict(zip(header, zip(*(row for _, row in lines), strict=True), strict=True))
            numeric = {
                n for n, column in cells.items() if n not in text and begins_with_number(column)
            }
        yield dict(_columns(lines, header, numeric=numeric, has_gaps=has_gaps, path=path))


def _columns(
    lines: _Lines, header: tuple[str, ...], *, numeric: set[str], has_gaps: bool, path: str
) -> Iterator[tuple[str, Array]]:
    by_column = zip(*(cells for _, cells in lines), strict=True)
    for name, cells in zip(header, by_column, strict=True):
        column = numbers_of(cells) if name in numeric else np.array(cells)
        bad = np.flatnonzero(~np.isfinite(column)) if name in numeric else ()
        wrong = [row for row in bad if not (has_gaps and is_blank(cells[row]))]
        if wrong:
            line, cell = lines[wrong[0]][0], cells[wrong[0]]
            remedy = "" if has_gaps else ", or set data.missing if it is missing"
            raise DataError(
                f"{path}, line {line}, column {name!r}: {cell!r} is not a finite number, as the "
                f"column needs; fix the cell or leave out the column{remedy}"
            )
        yield name, column


def _require_width(lines: _Lines, width: int, *, path: str) -> None:
    for line, cells in lines:
        if len(cells) != width:
            raise DataError(f"{path}, line {line}: {len(cells)} cells, but the header has {width}")
