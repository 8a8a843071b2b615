"""The handwritten digits that come with scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from simfl.data.dataset import Examples
from simfl.data.source import Source, SourceData

__all__ = ["Digits"]


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
        from sklearn.datasets import load_digits

        digits = load_digits()
        inputs = (digits.images[:, np.newaxis] / 16).astype(np.float32)
        targets = digits.target.astype(np.int64)
        return SourceData(Examples(inputs, targets), class_names=tuple("0123456789"))
