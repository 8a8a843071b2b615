"""A table in a CSV file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from simfl.data.arrays import as_targets
from simfl.data.dataset import Array, Examples
from simfl.data.source import Source, SourceData
from simfl.data.sources.csv_table import Table, read_header, read_table
from simfl.errors import ConfigError, DataError, did_you_mean


@dataclass(frozen=True)
class CsvFile(Source):
    """A table with a header, one example per line: features, a target, perhaps a client.

    A column is numeric if its first cell that is not missing (empty, "?", "NA" or the like) is a
    number; then all of its cells must be numbers, in plain digits. Columns that are not in
    ``features`` are not checked. Inputs have shape (N, features), float32. A numeric target of
    whole numbers
    without a decimal point is class ids, other numbers are float32, and text becomes class ids in
    sorted order. Columns that are neither features nor target can be used by a partition.
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
    """The column that says whose each example is; None: "client", if there is one."""
    test_path: str | None = None
    """A file with the same features and target, the test split; None: no test split."""
    delimiter: str = ","
    """What separates cells."""

    def check(self) -> None:
        """Check the delimiter."""
        if len(self.delimiter) != 1:
            raise ConfigError(f"csv: delimiter is {self.delimiter!r}; it must be one character")

    def load(self, *, seed: int) -> SourceData:
        """Read the file, and that of the test split."""
        header = read_header(self.path, delimiter=self.delimiter)
        client = self._check_names(header)
        table = read_table(self.path, delimiter=self.delimiter, text=self._text(header, client))
        features = self._chosen_features(table, client)
        targets, names = as_targets(table[self.target], what=table.describe(self.target))
        train = Examples(_stack(table, features), targets)
        columns = {n: table[n] for n in table.names if n not in (*features, self.target)}
        if client is not None:
            columns["client"] = table[client]
        return SourceData(train, self._test(train, features, names), columns, names)

    def _check_names(self, header: tuple[str, ...]) -> str | None:
        """Check that the columns are there, and return the one of the clients."""
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
            raise DataError(f"{self.path} has no numeric column beside the target {self.target!r}")
        return numeric

    def _test(
        self, train: Examples, features: tuple[str, ...], class_names: tuple[str, ...]
    ) -> Examples | None:
        if self.test_path is None:
            return None
        header = read_header(self.test_path, delimiter=self.delimiter)
        for name in (*features, self.target):
            _require(name, header, field="test_path", path=self.test_path)
        text = set(header).difference(features, {self.target})
        table = read_table(self.test_path, delimiter=self.delimiter, text=text)
        what = table.describe(self.target)
        targets, _ = as_targets(table[self.target], what=what, class_names=class_names)
        return Examples(_stack(table, features), targets.astype(train.targets.dtype))


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
