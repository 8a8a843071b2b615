"""A table in a CSV file: one array per column, with errors that name line and column."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

import numpy as np

from simfl.data.arrays import as_targets
from simfl.data.dataset import Array, Examples
from simfl.data.source import Source, SourceData, file_fault
from simfl.errors import ConfigError, DataError, did_you_mean
from simfl.regular_files import open_regular

if TYPE_CHECKING:
    from _csv import Reader

_MISSING: Final = ("", "?", "-", "na", "n/a", "nan", "null", "none")
_CHUNK_ROWS: Final = 20_000  # limits how many cells are Python strings at a time

_Lines: TypeAlias = list[tuple[int, list[str]]]
"""Line number and cells of each row."""


@dataclass(frozen=True)
class CsvFile(Source):
    """A table with a header, one example per line: features, a target, perhaps a client.

    A column is numeric if its first cell that is not missing (empty, "?", "NA" or the like) is a
    number; then all of its cells must be numbers, in plain digits. Columns that are not in
    ``features`` are not checked. Inputs have shape (N, features), float32. A numeric target of
    whole numbers without a decimal point is class ids, other numbers are float32, and text becomes
    class ids in sorted order. Columns that are neither features nor target can be used by a
    partition.
    """

    name: ClassVar[str] = "csv"
    file_fields: ClassVar[tuple[str, ...]] = ("path", "test_path")

    path: str
    """The file: UTF-8, with a header."""
    target: str
    """The column to predict."""
    features: tuple[str, ...] | None = None
    """The columns that are the inputs; None: all other numeric ones."""
    client: str | None = None
    """The column with each example's client; None: "client", if there is one."""
    test_path: str | None = None
    """A file with the same features and target for the test split; None: no test split."""
    delimiter: str = ","
    """The character between cells."""

    def check(self) -> None:
        """Check the delimiter."""
        if len(self.delimiter) != 1:
            raise ConfigError(f"csv: delimiter is {self.delimiter!r}; it must be one character")

    def load(self, *, seed: int) -> SourceData:
        """Read the file, and that of the test split."""
        header = _read_header(self.path, delimiter=self.delimiter)
        client = self._check_names(header)
        table = _read_table(self.path, delimiter=self.delimiter, text=self._text(header, client))
        features = self._chosen_features(table, client)
        targets, names = as_targets(table[self.target], what=table.describe(self.target))
        train = Examples(_stack(table, features), targets)
        columns = {n: table[n] for n in table.names if n not in (*features, self.target)}
        if client is not None:
            columns["client"] = table[client]
        return SourceData(train, self._test(train, features, names), columns, names)

    def _check_names(self, header: tuple[str, ...]) -> str | None:
        """Check that the columns exist, and return the clients' column."""
        _require(self.target, header, field="target", path=self.path)
        for name in self.features or ():
            _require(name, header, field="features", path=self.path)
        if self.client is None:
            return "client" if "client" in header else None
        _require(self.client, header, field="client", path=self.path)
        return self.client

    def _text(self, header: tuple[str, ...], client: str | None) -> set[str]:
        numeric = header if self.features is None else (*self.features, self.target)
        return {name for name in header if name == client or name not in numeric}

    def _chosen_features(self, table: Table, client: str | None) -> tuple[str, ...]:
        if self.features is not None:
            return self.features
        others = (self.target, client)
        numeric = tuple(n for n in table.names if n not in others and table.is_numeric(n))
        if not numeric:
            raise DataError(f"{self.path} has no numeric column besides the target {self.target!r}")
        return numeric

    def _test(
        self, train: Examples, features: tuple[str, ...], class_names: tuple[str, ...]
    ) -> Examples | None:
        if self.test_path is None:
            return None
        header = _read_header(self.test_path, delimiter=self.delimiter)
        for name in (*features, self.target):
            _require(name, header, field="test_path", path=self.test_path)
        text = set(header).difference(features, {self.target})
        table = _read_table(self.test_path, delimiter=self.delimiter, text=text)
        what = table.describe(self.target)
        targets, _ = as_targets(table[self.target], what=what, class_names=class_names)
        return Examples(_stack(table, features), np.asarray(targets, train.targets.dtype))


def _require(name: str, header: tuple[str, ...], *, field: str, path: str) -> None:
    if name not in header:
        hint = did_you_mean(name, header)
        raise DataError(f"data.source.{field}: {path} has no column {name!r}. {hint}")


def _stack(table: Table, features: tuple[str, ...]) -> Array:
    for name in features:
        if not table.is_numeric(name):
            raise DataError(
                f"{table.describe(name)} begins with {str(table[name][0])!r}, which is not a "
                "number; leave it out of data.source.features"
            )
    return np.stack([table[name].astype(np.float32) for name in features], axis=1)


@dataclass(frozen=True)
class Table:
    """The columns of a file: float64 or int64 if numeric, otherwise text."""

    path: str
    columns: dict[str, Array]

    @property
    def names(self) -> tuple[str, ...]:
        """The header."""
        return tuple(self.columns)

    def __getitem__(self, name: str) -> Array:
        return self.columns[name]

    def is_numeric(self, name: str) -> bool:
        """Return whether the column holds numbers."""
        return self.columns[name].dtype.kind in "if"

    def describe(self, name: str) -> str:
        """Return the column's name in errors."""
        return f"{self.path}: column {name!r}"


def _read_header(path: str, *, delimiter: str = ",") -> tuple[str, ...]:
    """Return the names of a CSV file's columns.

    Raises:
        DataError: if there is no such file, or its first line names no columns.
    """
    with _opened(path, delimiter=delimiter) as reader:
        return _header(reader, path=path)


def _read_table(path: str, *, delimiter: str = ",", text: Collection[str] = frozenset()) -> Table:
    """Read a CSV file.

    Args:
        path: the file.
        delimiter: the character between cells.
        text: columns that are ids or text even if their first cells are numbers; if all cells
            are whole numbers, they become int64.

    Raises:
        DataError: if there is no such file, it has no header or no rows, a row has too few or too
            many cells, or a cell of a numeric column is not a finite number.
    """
    with _opened(path, delimiter=delimiter) as reader:
        header = _header(reader, path=path)
        rows = ((reader.line_num, cells) for cells in reader if cells)
        chunks = list(_chunks(rows, header, text=text, path=path))
    if not chunks:
        raise DataError(f"{path} has a header but no rows")
    columns = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in header}
    return Table(path, {n: _ids(c) if n in text else c for n, c in columns.items()})


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
    path: str,
) -> Iterator[dict[str, Array]]:
    numeric: set[str] | None = None
    while lines := list(itertools.islice(rows, _CHUNK_ROWS)):
        _require_width(lines, len(header), path=path)
        if numeric is None:
            cells = dict(zip(header, zip(*(row for _, row in lines), strict=True), strict=True))
            numeric = {n for n, column in cells.items() if n not in text and _is_numeric(column)}
        yield dict(_columns(lines, header, numeric=numeric, path=path))


def _columns(
    lines: _Lines, header: tuple[str, ...], *, numeric: set[str], path: str
) -> Iterator[tuple[str, Array]]:
    by_column = zip(*(cells for _, cells in lines), strict=True)
    for name, cells in zip(header, by_column, strict=True):
        column = _numbers(cells) if name in numeric else np.array(cells)
        if name in numeric and not np.isfinite(column).all():
            row = int(np.isfinite(column).argmin())
            raise DataError(
                f"{path}, line {lines[row][0]}, column {name!r}: {cells[row]!r} is not a finite "
                "number, as the column needs; fix the cell or leave out the column"
            )
        yield name, column


def _require_width(lines: _Lines, width: int, *, path: str) -> None:
    for line, cells in lines:
        if len(cells) != width:
            raise DataError(f"{path}, line {line}: {len(cells)} cells, but the header has {width}")


def _numbers(cells: tuple[str, ...]) -> Array:
    """Return int64 if all are whole numbers, otherwise float64 with NaN for other text."""
    try:
        if not _is_plain("".join(cells)):
            raise ValueError
        return np.fromiter(map(int, cells), np.int64, len(cells))
    except (ValueError, OverflowError):
        return np.fromiter(map(_number, cells), np.float64, len(cells))


def _ids(column: Array) -> Array:
    # Whole numbers sort as numbers; "007" is text, since 7 may be another client.
    try:
        whole = column.astype(np.int64)
    except (ValueError, OverflowError):
        return column
    return whole if np.array_equal(whole.astype(str), column) else column


def _is_numeric(cells: tuple[str, ...]) -> bool:
    """Return whether the first cell that is not missing is a number, or all are missing.

    Cells that only Python reads as a number count, so that they are refused, not read as text.
    """
    known = (cell for cell in cells if cell.strip().lower() not in _MISSING)
    try:
        return not math.isnan(float(next(known, "0")))
    except ValueError:
        return False


def _number(cell: str) -> float:
    try:
        return float(cell) if _is_plain(cell) else math.nan
    except ValueError:
        return math.nan


def _is_plain(text: str) -> bool:
    """Return whether numbers are in plain digits, unlike 1_000, which only Python accepts."""
    return text.isascii() and "_" not in text
