"""The handwritten digits that come with scikit-learn."""

from __future__ import annotations

import gzip
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from simfl.data.dataset import Array, Examples
from simfl.data.source import Source, SourceData
from simfl.errors import DataError


@dataclass(frozen=True)
class Digits(Source):
    """1,797 grey images of handwritten digits, 8 by 8 pixels; they need no download.

    Inputs have shape (1797, 1, 8, 8), float32 in [0, 1]; targets are 0 to 9. There is no test
    split: ``test_fraction`` makes one.

    Source: Alpaydin and Kaynak, 1998, UCI Machine Learning Repository,
    https://doi.org/10.24432/C50P49, the test part, as in ``sklearn.datasets.load_digits``.
    """

    name: ClassVar[str] = "digits"

    def load(self, *, seed: int) -> SourceData:
        """Return the images and their digits."""
        numbers = _read()
        inputs = (numbers[:, :-1].reshape(-1, 1, 8, 8) / 16).astype(np.float32)
        targets = numbers[:, -1].astype(np.int64)
        return SourceData(Examples(inputs, targets), class_names=tuple("0123456789"))


def _read() -> Array:
    """Return the rows, 64 pixels and a digit, without scikit-learn's imports: they take a second.

    Raises:
        DataError: if scikit-learn is not there.
    """
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise DataError("source 'digits' needs scikit-learn; install scikit-learn")
    path = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if path.exists():
        with gzip.open(path, "rt") as file:
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])
