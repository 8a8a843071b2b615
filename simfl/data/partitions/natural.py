"""Clients as the data name them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from simfl.data.dataset import Array
from simfl.data.partition import Partition, rows_by_owner
from simfl.errors import DataError, did_you_mean


@dataclass(frozen=True)
class Natural(Partition):
    """Each value of a column is a client; clients are numbered in the sorted order of the values.

    Rows keep the order they have in the source.
    """

    name: ClassVar[str] = "natural"

    column: str = "client"
    """The column that says whose each example is."""

    def split(
        self,
        targets: Array,
        columns: dict[str, Array],
        *,
        seed: int,
    ) -> tuple[Array, Array]:
        """Group the rows by the column's values."""
        if self.column not in columns:
            hint = did_you_mean(self.column, columns) or "The source has no columns."
            raise DataError(f"data.partition.column: no column named {self.column!r}. {hint}")
        ids = columns[self.column]
        if ids.dtype.kind == "f" and np.isnan(ids).any():
            row = int(np.isnan(ids).argmax())
            raise DataError(f"column {self.column!r} is NaN at row {row}; every row needs a client")
        values, owners = np.unique(ids, return_inverse=True)
        return rows_by_owner(owners, clients=len(values))
