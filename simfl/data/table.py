"""Tables: named columns, and the cells of their files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from simfl.data.dataset import Array
from simfl.errors import DataError

_MISSING: Final = ("", "?", "-", "na", "n/a", "nan", "null", "none")


@dataclass(frozen=True)
class Table:
    """The columns of a file: float64 or int64 if numeric, otherwise text.

    Missing values are NaN in a numeric column, and "" in one of text.
    """

    path: str
    columns: dict[str, Array]

    @property
    def names(self) -> tuple[str, ...]:
        """The header."""
        return tuple(self.columns)

    def __getitem__(self, name: str) -> Array:
        if name not in self.columns:
            raise DataError(f"{self.describe(name)} holds neither numbers nor text; leave it out")
        return self.columns[name]

    def is_numeric(self, name: str) -> bool:
        """Return whether the column holds numbers."""
        return self[name].dtype.kind in "iuf"

    def describe(self, name: str) -> str:
        """Return the column's name in errors."""
        return f"{self.path}: column {name!r}"

    def take(self, rows: Array) -> Table:
        """Return some of the rows."""
        return Table(self.path, {name: column[rows] for name, column in self.columns.items()})


def is_missing(column: Array) -> Array:
    """Return which values are missing: (N,) bool."""
    if column.dtype.kind in "iu":
        return np.zeros(len(column), bool)
    missing: Array = np.isnan(column) if column.dtype.kind == "f" else column == ""
    return missing


def is_blank(cell: str) -> bool:
    """Return whether a cell of a text file stands for a missing value."""
    return cell.strip().lower() in _MISSING


def begins_with_number(cells: Sequence[str]) -> bool:
    """Return whether the first cell that is not missing is a number, or all are missing.

    Cells that only Python reads as a number count, so that they are refused, not read as text.
    """
    known = (cell for cell in cells if not is_blank(cell))
    try:
        return not math.isnan(float(next(known, "0")))
    except ValueError:
        return False


def numbers_of(cells: Sequence[str]) -> Array:
    """Return int64 if all are whole numbers, otherwise float64 with NaN for other text."""
    try:
        if not _is_plain("".join(cells)):
            raise ValueError
        return np.fromiter(map(int, cells), np.int64, len(cells))
    except (ValueError, OverflowError):
        return np.fromiter(map(_number, cells), np.float64, len(cells))


def ids_of(column: Array) -> Array:
    """Return int64 if all are whole numbers, as text: "007" is not, since 7 may be another id."""
    try:
        whole = column.astype(np.int64)
    except (ValueError, OverflowError):
        return column
    return whole if np.array_equal(whole.astype(str), column) else column


def _number(cell: str) -> float:
    try:
        return float(cell) if _is_plain(cell) else math.nan
    except ValueError:
        return math.nan


def _is_plain(text: str) -> bool:
    """Return whether numbers are in plain digits, unlike 1_000, which only Python accepts."""
    return text.isascii() and "_" not in text
