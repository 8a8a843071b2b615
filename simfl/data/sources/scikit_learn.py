"""Data sets that come with scikit-learn, and tables of OpenML by name."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Final

import numpy as np

from simfl.component import Count
from simfl.data.sources.parquet_file import column_of
from simfl.data.sources.table_source import TableSource
from simfl.data.table import Table
from simfl.errors import ConfigError, DataError, did_you_mean, one_line

_OPENML: Final = "openml:"
_SHIPPED: Final = ("breast_cancer", "diabetes", "iris", "wine")


@dataclass(frozen=True)
class ScikitLearn(TableSource):
    """A table that comes with scikit-learn, or one of OpenML by name, with the keys of ``csv``.

    ``path`` is ``breast_cancer``, ``diabetes`` (a number to predict), ``iris`` or ``wine``, which
    need no download, or ``openml:NAME``, which is downloaded and cached by scikit-learn. There is
    no test split: ``test_fraction`` makes one.

    Source: https://scikit-learn.org/stable/datasets.html, and https://www.openml.org
    """

    name: ClassVar[str] = "sklearn"
    file_fields: ClassVar[tuple[str, ...]] = ()

    target: str = "target"
    """The column to predict; of a table of OpenML, its own target unless it is named."""
    version: Count | None = None
    """The version of a table of OpenML; None: the newest one that is active."""

    def check(self) -> None:
        """Check the name, too."""
        super().check()
        if self.test_path is not None:
            raise ConfigError("sklearn: there is no test_path; use data.test_fraction")
        if not self._is_remote and self.path not in _SHIPPED:
            raise ConfigError(
                f"sklearn: path is {self.path!r}, and scikit-learn has {', '.join(_SHIPPED)}, or "
                f"openml:NAME. {did_you_mean(self.path, _SHIPPED)}"
            )

    @property
    def _is_remote(self) -> bool:
        return self.path.startswith(_OPENML)

    def refuse_untrusted(self) -> str | None:
        """Return why an untrusted scenario may not have it: what it downloads may change."""
        if not self._is_remote or self.version is not None:
            return None
        return (
            f"names {self.path!r} without version, so that what is downloaded may change, and "
            "trust is 'none'; set version, or trust the scenario"
        )

    def read_header(self, path: str) -> tuple[str, ...]:
        """Return the names of the columns."""
        return self._read().names

    def read_table(self, path: str, *, text: Collection[str]) -> Table:
        """Return the table."""
        table = self._read()
        return Table(
            path, {n: table[n].astype(str) if n in text else table[n] for n in table.names}
        )

    def _read(self) -> Table:
        if not self._is_remote:
            return _shipped(self.path)
        table, own = _downloaded(self.path, self.version)
        if self.target != "target" or own is None or "target" in table.names:
            return table
        return Table(self.path, {"target" if n == own else n: table[n] for n in table.names})


def _shipped(name: str) -> Table:
    from sklearn import datasets

    found = getattr(datasets, f"load_{name}")()
    names = [str(feature) for feature in found.feature_names]
    columns = dict(zip(names, found.data.T, strict=True))
    return Table(name, {**columns, "target": np.asarray(found.target)})


@cache
def _downloaded(path: str, version: int | None) -> tuple[Table, str | None]:
    """Return a table of OpenML, and the name of its target, if it has one.

    Raises:
        DataError: if it cannot be downloaded, or is no table.
    """
    import pyarrow as pa
    from sklearn import datasets

    name = path.removeprefix(_OPENML)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it tries again, and how it may change
            found: Any = datasets.fetch_openml(name, version=version or "active", as_frame=True)
        table = pa.Table.from_pandas(found.frame, preserve_index=False)
    except Exception as error:  # of the network, of scikit-learn, or of pandas
        raise DataError(
            f"{path} cannot be read from openml.org, nor from scikit-learn's cache: "
            f"{one_line(error)[:200]}"
        ) from error
    columns = {name: column_of(table[name], as_text=False) for name in table.column_names}
    known = {name: column for name, column in columns.items() if column is not None}
    targets = found.target_names or []
    return Table(path, known), str(targets[0]) if len(targets) == 1 else None
