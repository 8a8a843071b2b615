"""How the columns of a table become the inputs of a model; all is fitted to rows of training.

Shapes: N rows, T rows that clients train on, K categories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np

from simfl.data.dataset import Array, ArrayTree
from simfl.errors import DataError

Encoding: TypeAlias = Literal["as-is", "standardize", "one-hot", "index"]
Missing: TypeAlias = Literal["refuse", "leave-out", "mean", "median", "most-frequent"]
OF_CATEGORIES: Final = ("one-hot", "index")
_MOST_ONE_HOT: Final = 1000


@dataclass(frozen=True)
class NumberCode:
    """A numeric column: (x - mean) / std, after missing values are filled in."""

    fill: float = 0.0
    mean: float = 0.0
    std: float = 1.0

    @staticmethod
    def fit(column_T: Array, *, encoding: Encoding, missing: Missing) -> NumberCode:
        """Return the code whose numbers are those of the training rows.

        Missing values are filled in before mean and deviation are computed, as scikit-learn's
        ``SimpleImputer`` and ``StandardScaler`` do one after another; the deviation divides by T.
        A constant column is not divided.
        """
        # What is too large becomes infinite or NaN, and is reported with its row later.
        with np.errstate(over="ignore", invalid="ignore"):
            return NumberCode._fit(column_T, encoding, missing)

    @staticmethod
    def _fit(column_T: Array, encoding: Encoding, missing: Missing) -> NumberCode:
        known, rule = column_T[~np.isnan(column_T)], _FILLS.get(missing)
        fill = rule(known) if rule is not None and len(known) else 0.0
        if encoding == "as-is":
            return NumberCode(fill)
        filled = np.where(np.isnan(column_T), fill, column_T)
        mean, variance = float(filled.mean()), float(filled.var())
        rounding = len(filled) * np.finfo(np.float64).eps
        is_constant = variance <= rounding * variance + (rounding * mean) ** 2
        return NumberCode(fill, mean, 1.0 if is_constant else variance**0.5)

    def apply(self, column: Array) -> Array:
        """Return the numbers of a model: (N,) float64."""
        filled: Array = np.where(np.isnan(column), self.fill, column)
        with np.errstate(over="ignore", invalid="ignore"):
            return (filled - self.mean) / self.std


@dataclass(frozen=True)
class CategoryCode:
    """A column of categories, numbered from 1 in sorted order; 0 is missing or not among them."""

    categories: Array
    """(K,) text, those of the training rows."""
    fill: str = ""
    """What stands for missing values; "": they stay missing."""

    @staticmethod
    def fit(column_T: Array, *, missing: Missing) -> CategoryCode:
        """Return the code whose categories are those of the training rows."""
        categories, counts = np.unique(column_T[column_T != ""], return_counts=True)
        fills = missing == "most-frequent" and len(categories)
        return CategoryCode(categories, str(categories[counts.argmax()]) if fills else "")

    def ids(self, column: Array) -> Array:
        """Return the numbers of the categories: (N,) int64, 0 to K."""
        filled = np.where(column == "", self.fill, column)
        if not len(self.categories):
            return np.zeros(len(column), np.int64)
        places = np.searchsorted(self.categories, filled).clip(max=len(self.categories) - 1)
        return np.where(self.categories[places] == filled, places + 1, 0)

    def one_hot(self, column: Array) -> Array:
        """Return 1 at each row's category, and zeros if there is none: (N, K) float32."""
        found = np.zeros((len(column), len(self.categories) + 1), np.float32)
        found[np.arange(len(column)), self.ids(column)] = 1
        return found[:, 1:]


@dataclass(frozen=True)
class TableEncoder:
    """What the columns of a table become, before it is known which rows are trained on."""

    encodings: Mapping[str, Encoding]
    """The features, in order."""
    missing: Missing = "refuse"

    @property
    def has_to_fit(self) -> bool:
        """Whether the result depends on the training rows."""
        is_plain = all(encoding == "as-is" for encoding in self.encodings.values())
        return not is_plain or self.missing not in ("refuse", "leave-out")

    def fit(self, columns: ArrayTree) -> FittedTable:
        """Return what is fitted to training rows.

        Args:
            columns: name -> (T,), float64 or text.

        Raises:
            DataError: if a column has too many categories for one-hot.
        """
        found = _columns(columns)
        codes: dict[str, NumberCode | CategoryCode] = {}
        for name, encoding in self.encodings.items():
            if encoding in OF_CATEGORIES:
                code = CategoryCode.fit(found[name], missing=self.missing)
                if encoding == "one-hot" and len(code.categories) > _MOST_ONE_HOT:
                    raise DataError(
                        f"column {name!r} has {len(code.categories)} categories, too many for "
                        "one-hot; encode it by index, or leave it out of data.features"
                    )
                codes[name] = code
            else:
                codes[name] = NumberCode.fit(found[name], encoding=encoding, missing=self.missing)
        return FittedTable(self.encodings, codes)


@dataclass(frozen=True)
class FittedTable:
    """Encodings with the numbers and categories of the training rows."""

    encodings: Mapping[str, Encoding]
    codes: Mapping[str, NumberCode | CategoryCode]

    def apply(self, columns: ArrayTree) -> ArrayTree:
        """Return the inputs of a model.

        The columns of categories by index have one range of ids after another, so that a model
        needs one table of embeddings: the first column's are 0 (missing or unknown) to K, the
        second one's begin at K + 1.

        Returns:
            (N, numbers) float32, or if there are categories by index, these as ``categories``,
            (N, columns) int64, and the numbers, if any, as ``numbers``.
        """
        found = _columns(columns)
        numbers: list[Array] = []
        ids: list[Array] = []
        next_id = 0
        for name, encoding in self.encodings.items():
            code, column = self.codes[name], found[name]
            if isinstance(code, NumberCode):
                with np.errstate(over="ignore"):
                    numbers.append(code.apply(column).astype(np.float32)[:, np.newaxis])
            elif encoding == "one-hot":
                numbers.append(code.one_hot(column))
            else:
                ids.append(code.ids(column) + next_id)
                next_id += len(code.categories) + 1
        joined = {"numbers": np.concatenate(numbers, axis=1)} if numbers else {}
        if not ids:
            return joined["numbers"]
        return {"categories": np.stack(ids, axis=1), **joined}


def _columns(tree: ArrayTree) -> Mapping[str, Array]:
    assert isinstance(tree, dict), "columns by name"
    return {name: np.asarray(column) for name, column in tree.items()}


def _most_frequent(known: Array) -> float:
    values, counts = np.unique(known, return_counts=True)
    return float(values[counts.argmax()])


_FILLS: Final[dict[str, Callable[[Array], float]]] = {
    "mean": lambda known: float(known.mean()),
    "median": lambda known: float(np.median(known)),
    "most-frequent": _most_frequent,
}
"""What missing numbers become, by the rule; under the others there are none."""
