"""Data sets of the Hugging Face hub, or on disk in its library's formats.

Shapes: N images, H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from simfl.data.arrays import with_our_dtypes
from simfl.data.dataset import Array, Examples, Scaling
from simfl.data.hub import read_split, why_untrusted, without_references
from simfl.data.images import pixels_of, size_of
from simfl.data.source import Source, SourceData
from simfl.errors import DataError, SimflError, did_you_mean, one_line


@dataclass(frozen=True)
class HuggingFace(Source):
    """A data set of the hub, a folder written by ``save_to_disk``, or a data file.

    Images become float32 in [0, 1] of shape (N, channels, height, width); those of a single input
    column stay bytes until a batch is read. Sequences of the same length become an axis. Several
    input columns make a dict of inputs by name. Class labels keep their ids and names; text targets
    become class ids in sorted order.
    """

    name: ClassVar[str] = "huggingface"
    file_or_name_fields: ClassVar[tuple[str, ...]] = ("path",)

    path: str
    """The name on the hub, such as "ylecun/mnist", or a folder, or a csv, json or parquet file."""
    inputs: str | tuple[str, ...]
    """The column or columns of the inputs."""
    target: str = "label"
    """The column to predict."""
    config: str | None = None
    """The configuration of a data set on the hub; None: its only or default one."""
    split: str = "train"
    """The split that is distributed over clients."""
    test_split: str | None = None
    """The split to test on; None: no test split."""
    client: str | None = None
    """The column with each example's client."""
    columns: tuple[str, ...] = ()
    """Further columns with one value per example, for a partition or ``cluster.groups``."""
    revision: str | None = None
    """The commit, tag or branch of a data set on the hub; null: its newest state."""

    def refuse_untrusted(self) -> str | None:
        """Return why an untrusted scenario may not have it: what it downloads may change."""
        return why_untrusted(self.path, self.revision)

    def load(self, *, seed: int) -> SourceData:
        """Read the splits.

        Raises:
            MissingExtraError: if the package datasets is not installed.
            DataError: if the data cannot be read, or a split or column does not exist.
        """
        train = self._read(self.split)
        columns = {
            key: self._column(train, name, field) for key, (name, field) in self._named().items()
        }
        names = tuple(getattr(train.features.get(self.target), "names", None) or ())
        examples = self._examples(train, self.split, names)
        tests, test_columns = None, dict[str, Array]()
        if self.test_split is not None:
            test = self._read(self.test_split)
            tests = self._examples(test, self.test_split, names)
            for key, (name, field) in self._named().items():
                with suppress(DataError):  # the test split need not have them
                    test_columns[key] = self._column(test, name, field)
        data = SourceData(examples, tests, columns, names, test_columns=test_columns)
        return with_our_dtypes(data, origin=self.path)

    def _named(self) -> dict[str, tuple[str, str]]:
        """Return the columns for partitions: by name, what the data call it, and the field."""
        client = {} if self.client is None else {"client": (self.client, "client")}
        return client | {name: (name, "columns") for name in self.columns}

    def _read(self, split: str) -> Any:
        return read_split(self.path, split, self.config, self.revision)

    def _examples(self, data: Any, split: str, class_names: tuple[str, ...]) -> Examples:
        scaling = None
        if isinstance(self.inputs, str):
            inputs: Any = self._read_column(data, self.inputs, "inputs")
            scaling = Scaling(divide_by=255) if _holds_images(data, self.inputs) else None
        else:
            inputs = {name: self._column(data, name, "inputs") for name in self.inputs}
        targets = self._column(data, self.target, "target")
        if class_names and targets.dtype.kind == "i" and (targets < 0).any():
            row = int((targets < 0).argmax())
            where = f"{self.path}, split {split!r}"
            raise DataError(f"{where}: row {row} has no label in column {self.target!r}")
        return Examples(inputs, targets, scaling)

    def _column(self, data: Any, name: str, field: str) -> Array:
        column = self._read_column(data, name, field)
        return np.divide(column, 255, dtype=np.float32) if _holds_images(data, name) else column

    def _read_column(self, data: Any, name: str, field: str) -> Array:
        """Read a column; images stay bytes."""
        if name not in data.column_names:
            hint = did_you_mean(name, data.column_names)
            raise DataError(f"data.source.{field}: {self.path} has no column {name!r}. {hint}")
        what = f"{self.path}: column {name!r}"
        if _holds_images(data, name):
            return _decode(data, name, what=what)
        column: Array = data.select_columns([name]).with_format("numpy")[:][name]
        if column.dtype == object:
            raise DataError(f"{what} {_why_objects(column)}")
        return column


def _decode(data: Any, column: str, *, what: str) -> Array:
    try:
        with without_references():
            return _decode_images(data[column], what=what)
    except SimflError:
        raise
    # From Pillow, or from the file system of an image path.
    except Exception as error:
        raise DataError(f"{what}: an image cannot be read: {one_line(error)}") from error


def _holds_images(data: Any, column: str) -> bool:
    return type(data.features[column]).__name__ == "Image"


def _why_objects(column: Array) -> str:
    lengths = sorted({len(value) for value in column if hasattr(value, "__len__")})
    if len(lengths) > 1 and not any(isinstance(value, str) for value in column):
        return f"holds sequences of {lengths[0]} to {lengths[-1]} values; cut or pad them"
    return "holds empty or mixed values; fill them in or leave those rows out"


def _decode_images(images: Iterable[Any], *, what: str) -> Array:
    """Decode PIL images of one size: (N, C, H, W), bytes.

    Grey images have one channel; if any image has colour, all get three. Transparency is dropped.

    Args:
        images: the images, in order.
        what: their name in errors.

    Raises:
        DataError: for a missing image, one of another size than the first, or one whose pixels are
            not bytes.
    """
    pixels: list[Array] = []
    for row, image in enumerate(images):
        if image is None:
            raise DataError(f"{what}, row {row} has no image; leave the row out")
        pixels.append(pixels_of(image, what=f"{what}, row {row}"))
        if pixels[row].shape[1:] != pixels[0].shape[1:]:
            raise DataError(
                f"{what}: the image of row {row} is {_size(pixels[row])}, that of row 0 "
                f"{_size(pixels[0])}; resize them to one size"
            )
    channels = max((len(image) for image in pixels), default=1)
    shape = (len(pixels), channels, *(pixels[0].shape[1:] if pixels else (0, 0)))
    images_NCHW = np.empty(shape, np.uint8)
    for row, image in enumerate(pixels):
        images_NCHW[row] = image
    return images_NCHW


def _size(pixels: Array) -> str:
    return size_of(pixels.shape[2], pixels.shape[1])
