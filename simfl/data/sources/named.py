"""Data sets of the hub by the names that the field knows them by.

Shapes: N examples, L characters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from simfl.data.arrays import with_our_dtypes
from simfl.data.dataset import Examples
from simfl.data.hub import read_split, why_untrusted
from simfl.data.source import Source, SourceData
from simfl.data.sources.huggingface import HuggingFace
from simfl.data.sources.leaf import numbers_of_characters
from simfl.errors import DataError, did_you_mean


@dataclass(frozen=True)
class MNIST(HuggingFace):
    """70,000 grey images of handwritten digits, 28 by 28 pixels; 10,000 are the test split.

    ``huggingface`` with its fields filled in; inputs are bytes (N, 1, 28, 28), divided by 255.

    Source: LeCun et al., 1998, https://doi.org/10.1109/5.726791
    """

    name: ClassVar[str] = "mnist"

    path: str = "ylecun/mnist"
    """The name on the hub, or a folder with a copy."""
    inputs: str | tuple[str, ...] = "image"
    """The column of the images."""
    test_split: str | None = "test"
    """The split to test on; None: no test split."""


@dataclass(frozen=True)
class CIFAR10(HuggingFace):
    """60,000 colour images of ten classes, 32 by 32 pixels; 10,000 are the test split.

    ``huggingface`` with its fields filled in; inputs are bytes (N, 3, 32, 32), divided by 255.

    Source: Krizhevsky, 2009, https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf
    """

    name: ClassVar[str] = "cifar10"

    path: str = "uoft-cs/cifar10"
    """The name on the hub, or a folder with a copy."""
    inputs: str | tuple[str, ...] = "img"
    """The column of the images."""
    test_split: str | None = "test"
    """The split to test on; None: no test split."""


@dataclass(frozen=True)
class CIFAR100(CIFAR10):
    """60,000 colour images of a hundred classes, 32 by 32 pixels; 10,000 are the test split.

    ``target: coarse_label`` has twenty classes. ``huggingface`` with its fields filled in; inputs
    are bytes (N, 3, 32, 32), divided by 255.

    Source: Krizhevsky, 2009, https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf
    """

    name: ClassVar[str] = "cifar100"

    path: str = "uoft-cs/cifar100"
    """The name on the hub, or a folder with a copy."""
    target: str = "fine_label"
    """The column to predict."""


@dataclass(frozen=True)
class FEMNIST(HuggingFace):
    """814,277 grey images of handwritten characters, 28 by 28 pixels; 3,597 writers are clients.

    ``huggingface`` with its fields filled in; inputs are bytes (N, 1, 28, 28), divided by 255.
    There is no test split: ``holdout_fraction`` makes one of each writer.

    Source: Caldas et al., 2018, https://arxiv.org/abs/1812.01097
    """

    name: ClassVar[str] = "femnist"

    path: str = "flwrlabs/femnist"
    """The name on the hub, or a folder with a copy."""
    inputs: str | tuple[str, ...] = "image"
    """The column of the images."""
    target: str = "character"
    """The column to predict."""
    client: str | None = "writer_id"
    """The column with each example's client."""


@dataclass(frozen=True)
class Shakespeare(Source):
    """80 characters of Shakespeare's plays, and the next one; the speakers of a play are clients.

    Inputs are numbers of characters, (N, 80) int32, in the order of their code points, and targets
    the number of the next. There is no test split: ``holdout_fraction`` makes one of each client.

    Source: Caldas et al., 2018, https://arxiv.org/abs/1812.01097
    """

    name: ClassVar[str] = "shakespeare"
    file_or_name_fields: ClassVar[tuple[str, ...]] = ("path",)

    path: str = "flwrlabs/shakespeare"
    """The name on the hub, or a folder or file with a copy."""
    split: str = "train"
    """The split that is distributed over clients."""
    revision: str | None = None
    """The commit, tag or branch on the hub; null: its newest state."""

    def refuse_untrusted(self) -> str | None:
        """Return why an untrusted scenario may not have it: what it downloads may change."""
        return why_untrusted(self.path, self.revision)

    def load(self, *, seed: int) -> SourceData:
        """Read the lines.

        Raises:
            MissingExtraError: if the package datasets is not installed.
            DataError: if they cannot be read.
        """
        found = read_split(self.path, self.split, None, self.revision)
        for name in ("x", "y", "character_id"):
            if name not in found.column_names:
                hint = did_you_mean(name, found.column_names)
                raise DataError(f"{self.path} has no column {name!r}. {hint}")
        texts, following = list(found["x"]), list(found["y"])
        alphabet = sorted(set().union(*texts, *following))
        inputs = numbers_of_characters(texts, alphabet, what=f"{self.path}: x")
        targets = numbers_of_characters(following, alphabet, what=f"{self.path}: y")
        columns = {"client": np.array(found["character_id"])}
        data = SourceData(Examples(inputs, targets[:, 0]), None, columns)
        return with_our_dtypes(data, origin=self.path)
