"""A table in a Parquet file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from simfl.data.dataset import Array
from simfl.data.source import file_fault
from simfl.data.sources.table_source import TableSource
from simfl.data.table import Table, ids_of
from simfl.errors import DataError, one_line
from simfl.regular_files import open_regular


@dataclass(frozen=True)
class ParquetFile(TableSource):
    """A table in a Parquet file, one example per row; its keys are those of ``csv``.

    Columns of numbers and booleans are numeric, and nulls and NaN are missing. Text and columns of
    categories are text. Columns of lists, times and the like cannot be used.
    """

    name: ClassVar[str] = "parquet"

    def read_header(self, path: str) -> tuple[str, ...]:
        """Return the names of a file's columns."""
        with _opened(path) as file:
            names = tuple(file.schema_arrow.names)
        if twice := [name for name in names if names.count(name) > 1]:
            raise DataError(f"{path}: two columns are called {twice[0]!r}; rename one")
        return names

    def read_table(self, path: str, *, text: Collection[str]) -> Table:
        """Read a file."""
        with _opened(path) as file:
            table = file.read()
            found = {n: column_of(table[n], as_text=n in text) for n in table.column_names}
        if not table.num_rows:
            raise DataError(f"{path} has no rows")
        columns = {name: column for name, column in found.items() if column is not None}
        for name, column in columns.items():
            if column.dtype.kind == "f" and np.isinf(column).any():
                row = int(np.isinf(column).argmax())
                raise DataError(f"{path}: column {name!r} holds {column[row]} at row {row}; fix it")
        return Table(path, columns)


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    from pyarrow import ArrowException, parquet

    try:
        with open_regular(path) as file:
            yield parquet.ParquetFile(file)
    except OSError as error:
        raise DataError(file_fault(path, error)) from error
    except (ArrowException, ValueError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {one_line(error)}") from error


def column_of(column: Any, *, as_text: bool) -> Array | None:
    """Return numbers, NaN for nulls, or text, "" for nulls; None: a column holds neither."""
    import pyarrow as pa
    from pyarrow import compute, types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    is_number = any(
        of(kind) for of in (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    )
    is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    if not is_number and not is_text:
        return None
    if is_text or as_text:
        cells = np.array(compute.fill_null(column.cast(pa.string()), "").to_pylist(), dtype=str)
        return ids_of(cells) if as_text else cells
    is_whole = not (types.is_floating(kind) or types.is_decimal(kind)) and not column.null_count
    numbers: Array = column.cast(pa.int64() if is_whole else pa.float64()).to_numpy()
    return numbers
