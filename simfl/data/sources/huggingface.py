"""Data sets of the Hugging Face hub, or on disk in its library's formats.

Shapes: N images, H height, W width, C channels.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from simfl.data.arrays import with_our_dtypes
from simfl.data.dataset import Array, Examples, Scaling
from simfl.data.source import Source, SourceData
from simfl.errors import DataError, SimflError, did_you_mean, import_extra, one_line

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_FORMATS = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
_GREY = ("1", "L")
_COLOUR = ("RGB", "RGBA", "P", "PA", "LA", "CMYK", "YCbCr", "HSV", "LAB", "RGBX")


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

    def load(self, *, seed: int) -> SourceData:
        """Read the splits.

        Raises:
            MissingExtraError: if the package datasets is not installed.
            DataError: if the data cannot be read, or a split or column does not exist.
        """
        train = self._read_split(self.split)
        columns = {}
        if self.client is not None:
            columns["client"] = self._column(train, self.client, "client")
        columns |= {name: self._column(train, name, "columns") for name in self.columns}
        names = tuple(getattr(train.features.get(self.target), "names", None) or ())
        examples = self._examples(train, self.split, names)
        tests = None
        if self.test_split is not None:
            test = self._read_split(self.test_split)
            tests = self._examples(test, self.test_split, names)
        return with_our_dtypes(SourceData(examples, tests, columns, names), origin=self.path)

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

    def _read_split(self, split: str) -> Any:
        # Before version 4 the library asks on the terminal whether to run code of the data set's
        # author; this answers no, unless the user's environment sets it.
        os.environ.setdefault("HF_DATASETS_TRUST_REMOTE_CODE", "0")
        datasets = import_extra("datasets", what="the 'huggingface' source", extra="hf")
        try:
            with _without_references(), without_bars():
                return self._read(datasets, split)
        except SimflError:
            raise
        except Exception as error:
            # The library raises exceptions of many packages when data cannot be read.
            reason = one_line(str(error).partition("\n")[0])
            raise DataError(f"{self.path}, split {split!r}, cannot be read: {reason}") from error

    def _read(self, datasets: Any, split: str) -> Any:
        path = Path(self.path)
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            return _split_of(datasets.load_from_disk(self.path), split, path=self.path)
        if path.is_file():
            kind = _FORMATS.get(path.suffix.lower())
            if kind is None:
                known = ", ".join(_FORMATS)
                raise DataError(f"{path}: {path.suffix!r} is not a format it can be in: {known}")
            return datasets.load_dataset(kind, data_files=self.path, split=split)
        if not path.is_dir():
            _require_name(self.path)
        return datasets.load_dataset(self.path, self.config, split=split)


def _decode(data: Any, column: str, *, what: str) -> Array:
    try:
        with _without_references():
            return _decode_images(data[column], what=what)
    except SimflError:
        raise
    # From Pillow, or from the file system of an image path.
    except Exception as error:
        raise DataError(f"{what}: an image cannot be read: {one_line(error)}") from error


def _require_name(name: str) -> None:
    """Refuse names that are not on the hub: URLs, and the library's own readers.

    The latter would read any file in the current folder, pickles included.
    """
    is_reader = name.isidentifier() and find_spec(f"datasets.packaged_modules.{name}")
    if is_reader or not _NAME.fullmatch(name):
        raise DataError(
            f"{one_line(name)} is neither a file, a folder, nor the name of a data set on the hub, "
            "such as ylecun/mnist"
        )


@contextmanager
def without_bars() -> Iterator[None]:
    """Hide the library's own progress bars; downloads from the hub still show theirs."""
    import datasets

    if datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


@contextmanager
def _without_references() -> Iterator[None]:
    """Make fsspec refuse reference file systems in this block.

    Their templates can run code, and a data set's README or image paths may name one.
    """
    import fsspec  # type: ignore[import-untyped]

    class Refused(fsspec.AbstractFileSystem):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise ValueError("it names an fsspec reference file system, which could run code")

    previous = fsspec.get_filesystem_class("reference")
    fsspec.register_implementation("reference", Refused, clobber=True)
    try:
        yield
    finally:
        fsspec.register_implementation("reference", previous, clobber=True)


def _holds_images(data: Any, column: str) -> bool:
    return type(data.features[column]).__name__ == "Image"


def _split_of(data: Any, split: str, *, path: str) -> Any:
    if isinstance(data, dict):
        if split not in data:
            raise DataError(f"{path} has no split {split!r}. {did_you_mean(split, data)}")
        return data[split]
    if split != "train":
        raise DataError(
            f"{path} is one data set without splits, so there is no {split!r}; save a DatasetDict "
            "to have several"
        )
    return data


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
        pixels.append(_pixels(image, what=f"{what}, row {row}"))
        if pixels[row].shape[:2] != pixels[0].shape[:2]:
            raise DataError(
                f"{what}: the image of row {row} is {_size(pixels[row])}, that of row 0 "
                f"{_size(pixels[0])}; resize them to one size"
            )
    channels = max((image.shape[2] for image in pixels), default=1)
    shape = (len(pixels), channels, *(pixels[0].shape[:2] if pixels else (0, 0)))
    images_NCHW = np.empty(shape, np.uint8)
    for row, image in enumerate(pixels):
        images_NCHW[row] = image.transpose(2, 0, 1)
    return images_NCHW


def _pixels(image: Any, *, what: str) -> Array:
    if image is None:
        raise DataError(f"{what} has no image; leave the row out")
    if image.mode not in _GREY + _COLOUR:
        raise DataError(
            f"{what}: images of mode {image.mode!r} cannot be used; save it as L or RGB"
        )
    array = np.asarray(image.convert("L" if image.mode in _GREY else "RGB"), np.uint8)
    return array[:, :, np.newaxis] if array.ndim == 2 else array


def _size(pixels: Array) -> str:
    return f"{pixels.shape[1]} by {pixels.shape[0]} pixels"
