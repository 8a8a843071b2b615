"""Tables: which columns are features, target and client, and how features are encoded."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np

from simfl.data.arrays import as_targets
from simfl.data.dataset import Array, ArrayTree, Examples
from simfl.data.source import Source, SourceData
from simfl.data.table import Table, begins_with_number, is_missing, numbers_of
from simfl.data.table_encoding import OF_CATEGORIES, Encoding, Missing, TableEncoder
from simfl.errors import ConfigError, DataError, did_you_mean


@dataclass(frozen=True)
class TableSource(Source):
    """A source of one example per row."""

    file_fields: ClassVar[tuple[str, ...]] = ("path", "test_path")

    path: str
    """The file; a .csv is UTF-8, with a header."""
    target: str
    """The column to predict."""
    features: tuple[str, ...] | None = None
    """The columns that are the inputs; None: all other numeric ones, and with ``categories`` those
    of text."""
    client: str | None = None
    """The column with each example's client; None: "client", if there is one."""
    test_path: str | None = None
    """A file with the same features and target for the test split; None: no test split."""
    numbers: Literal["as-is", "standardize"] = "as-is"
    """How numeric features are encoded. ``standardize``: (x - mean) / standard deviation."""
    categories: Literal["one-hot", "index"] | None = None
    """How features of text are encoded: ``one-hot``, a column of zeros and ones for each category;
    or ``index``, a number from 1 for an embedding. A missing or unknown category is all zeros, or
    the number 0. None: text is no feature."""
    encode: dict[str, Encoding] = field(default_factory=dict)
    """How single columns are encoded instead, by name; numbers may be categories, too."""
    missing: Missing = "refuse"
    """What happens to rows with a missing feature: ``refuse`` is an error; ``leave-out`` leaves out
    such rows, and those without a target; ``mean`` and ``median`` fill in numbers, and leave
    categories unknown; ``most-frequent`` fills in both, with the smallest of the most frequent."""

    def check(self) -> None:
        """Check what concerns several fields."""
        for name in self.encode:
            if name in (self.target, self.client):
                raise ConfigError(
                    f"{self.name}: encode has {name!r}, which is the target or the client; remove "
                    "it there"
                )
            if self.features is not None and name not in self.features:
                hint = did_you_mean(name, self.features)
                raise ConfigError(f"{self.name}: encode has {name!r}, no feature. {hint}")

    def read_header(self, path: str) -> tuple[str, ...]:
        """Return the names of a file's columns."""
        raise NotImplementedError

    def read_table(self, path: str, *, text: Collection[str]) -> Table:
        """Read a file; columns of ``text`` are not numbers, whatever is in them."""
        raise NotImplementedError

    def mark_missing(self, column: Array) -> Array:
        """Return a column of text with "" for missing values."""
        return column.astype(str)

    def load(self, *, seed: int) -> SourceData:
        """Read the file, and that of the test split.

        Raises:
            DataError: if a file cannot be read, lacks a column, or holds what cannot be used.
        """
        header = self.read_header(self.path)
        client = self._check_names(header)
        table = self.read_table(self.path, text=self._text(header, client))
        encoder = TableEncoder(self._encodings(table, client), self.missing)
        data = self._part(table, encoder, client)
        if self.test_path is not None:
            data = self._with_test(data, encoder, self.test_path)
        return replace(data, encoder=encoder) if encoder.has_to_fit else _encoded(data, encoder)

    def _check_names(self, header: tuple[str, ...]) -> str | None:
        """Check that the columns exist, and return the clients' column."""
        _require(self.target, header, field="target", path=self.path)
        for name in self.features or ():
            _require(name, header, field="features", path=self.path)
        for name in self.encode:
            _require(name, header, field="encode", path=self.path)
        if self.client is None:
            return "client" if "client" in header else None
        _require(self.client, header, field="client", path=self.path)
        return self.client

    def _text(self, header: tuple[str, ...], client: str | None) -> set[str]:
        """Return the columns that are no numbers, whatever is in them."""
        numeric = header if self.features is None else (*self.features, self.target)
        text = {name for name in header if name == client or name not in numeric}
        text |= {name for name, encoding in self.encode.items() if encoding in OF_CATEGORIES}
        # A column with gaps would be numbers with a decimal point, which are no classes.
        return text | {self.target} if self.missing == "leave-out" else text

    def _encodings(self, table: Table, client: str | None) -> dict[str, Encoding]:
        """Return the features, in order, and how each is encoded."""
        names = self.features
        if names is None:
            names = tuple(name for name in table.names if name not in (self.target, client))
        chosen: dict[str, Encoding] = {}
        for name in names:
            encoding = self.numbers if table.is_numeric(name) else self.categories
            encoding = self.encode.get(name, encoding)
            if encoding is not None:
                chosen[name] = encoding
            elif self.features is not None:
                raise _no_number(table, name)
        if not chosen:
            raise DataError(f"{self.path} has no numeric column besides the target {self.target!r}")
        return chosen

    def _part(
        self,
        table: Table,
        encoder: TableEncoder,
        client: str | None,
        class_names: tuple[str, ...] = (),
    ) -> SourceData:
        """Return the examples of a file, with the columns of the table for inputs."""
        inputs = {name: self._feature(table, name, of) for name, of in encoder.encodings.items()}
        gaps = np.any([is_missing(column) for column in inputs.values()], axis=0)
        if self.missing == "refuse" and gaps.any():
            name = next(name for name, column in inputs.items() if is_missing(column).any())
            row = int(is_missing(inputs[name]).argmax())
            raise DataError(
                f"{table.describe(name)} has no value at row {row}; set data.missing, or leave the "
                "column out"
            )
        target, kept = table[self.target], np.arange(len(gaps))
        if self.missing == "leave-out":
            if not table.is_numeric(self.target):
                target = self.mark_missing(target)
            kept = np.flatnonzero(~gaps & ~is_missing(target))
            target = _typed(target[kept], what=table.describe(self.target))
        if not len(kept):
            raise DataError(f"{table.path}: every row lacks a value; set data.missing to mean")
        targets, names = as_targets(
            target, what=table.describe(self.target), class_names=class_names
        )
        others = [n for n in table.names if n not in (*encoder.encodings, self.target)]
        columns = {name: table[name][kept] for name in others}
        if client in table.names:
            columns["client"] = table[str(client)][kept]
        left_out = len(gaps) - len(kept)
        note = f"{left_out} of {len(gaps)} rows of {table.path} lack a value and are left out"
        features: ArrayTree = {name: column[kept] for name, column in inputs.items()}
        notes = (note,) if left_out else ()
        return SourceData(Examples(features, targets), None, columns, names, notes)

    def _feature(self, table: Table, name: str, encoding: Encoding) -> Array:
        """Return a column as float64, or as objects: text, and "" for what is missing."""
        if encoding in OF_CATEGORIES:
            return self.mark_missing(table[name]).astype(object)
        if not table.is_numeric(name):
            raise _no_number(table, name)
        return table[name].astype(np.float64, copy=False)

    def _with_test(self, data: SourceData, encoder: TableEncoder, path: str) -> SourceData:
        """Return the data with the test split of another file."""
        header = self.read_header(path)
        for name in (*encoder.encodings, self.target):
            _require(name, header, field="test_path", path=path)
        numeric = [n for n, of in encoder.encodings.items() if of not in OF_CATEGORIES]
        text = set(header).difference(numeric, {self.target})
        text |= {self.target} if self.missing == "leave-out" else set()
        table = self.read_table(path, text=text)
        client = self.client or "client"
        test = self._part(table, encoder, client, data.class_names)
        targets = np.asarray(test.train.targets, data.train.targets.dtype)
        return replace(
            data,
            test=replace(test.train, targets=targets),
            test_columns=test.columns,
            notes=(*data.notes, *test.notes),
        )


def _encoded(data: SourceData, encoder: TableEncoder) -> SourceData:
    """Return the data with inputs that depend on no fit."""

    def encode(examples: Examples) -> Examples:
        assert isinstance(examples.inputs, dict), "columns"
        return replace(examples, inputs=encoder.fit(examples.inputs).apply(examples.inputs))

    return replace(data, train=encode(data.train), test=data.test and encode(data.test))


def _typed(column: Array, *, what: str) -> Array:
    """Return a column of text as numbers, if its first cell is one.

    Raises:
        DataError: if another cell is none.
    """
    if column.dtype.kind in "iuf" or not len(column) or not begins_with_number(column.tolist()):
        return column
    numbers = numbers_of(column.tolist())
    if not np.isfinite(numbers).all():
        cell = column[int(np.isfinite(numbers).argmin())]
        raise DataError(f"{what} holds {str(cell)!r} among numbers; fix the cell")
    return numbers


def _require(name: str, header: tuple[str, ...], *, field: str, path: str) -> None:
    if name not in header:
        hint = did_you_mean(name, header)
        raise DataError(f"data.source.{field}: {path} has no column {name!r}. {hint}")


def _no_number(table: Table, name: str) -> DataError:
    return DataError(
        f"{table.describe(name)} begins with {str(table[name][0])!r}, which is not a number; leave "
        "it out of data.source.features, or set data.source.categories"
    )
