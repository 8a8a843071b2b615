"""Folders of images, decoded once.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from simfl.component import Count
from simfl.data.arrays import as_targets
from simfl.data.cache import cache_folder, write_folder
from simfl.data.dataset import Array, Examples, Scaling
from simfl.data.images import num_channels, pixels_of, size_of
from simfl.data.source import Source, SourceData, file_fault
from simfl.errors import DataError, SimflError, import_extra, one_line
from simfl.regular_files import open_regular

_SUFFIXES: Final = (
    ".png",
    ".jpg",
    ".jpeg",
    ".bmp",
    ".gif",
    ".webp",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
)
_VERSION: Final = 1
"""Of the files in the cache, and of what is hashed."""


@dataclass(frozen=True)
class ImageFolder(Source):
    """Images in folders that are called by their class, or by client and class.

    ``path/CLASS/FILE``, or with ``client_folders`` ``path/CLIENT/CLASS/FILE``. Classes are numbered
    in the sorted order of their names. Images stay bytes, (N, channels, height, width), and become
    float32 in [0, 1] when a batch is read; if any has colour, all get three channels.

    They are decoded once, into ``$XDG_CACHE_HOME/simfl/images``, by a hash of the files, and read
    from there without being loaded into memory. Pillow reads .png, .jpg, .bmp, .gif, .webp, .tiff,
    .ppm and .pgm; other files are left alone.
    """

    name: ClassVar[str] = "images"
    file_fields: ClassVar[tuple[str, ...]] = ("path", "test_path")

    path: str
    """The folder."""
    test_path: str | None = None
    """A folder of the same kind with the test split; None: none."""
    client_folders: bool = False
    """Whether the first folders are clients, with folders of classes in them."""
    size: tuple[Count, Count] | None = None
    """The height and width that images are resized to; None: they have one size."""

    def load(self, *, seed: int) -> SourceData:
        """Read the images.

        Raises:
            MissingExtraError: if Pillow is not installed.
            DataError: if there is no image, or one cannot be read, or their sizes differ.
        """
        import_extra("PIL.Image", what="a folder of images", extra="images", package="pillow")
        inputs, targets, names, columns = self._read(self.path)
        train = Examples(inputs, targets, _BYTES)
        if self.test_path is None:
            return SourceData(train, None, columns, names)
        others, test_targets, _, test_columns = self._read(self.test_path, class_names=names)
        if others.shape[1] != inputs.shape[1]:
            raise DataError(
                f"{self.test_path} has images of {others.shape[1]} channels, {self.path} of "
                f"{inputs.shape[1]}; save them alike"
            )
        test = Examples(others, test_targets, _BYTES)
        return SourceData(train, test, columns, names, test_columns=test_columns)

    def _read(
        self, path: str, class_names: tuple[str, ...] = ()
    ) -> tuple[Array, Array, tuple[str, ...], dict[str, Array]]:
        """Return images, class ids, class names and columns."""
        folder = Path(path)
        depth = 3 if self.client_folders else 2
        files = [
            file
            for file in sorted(folder.glob("/".join("*" * depth)))
            if file.suffix.lower() in _SUFFIXES
        ]
        if not files:
            kind = "CLIENT/CLASS" if self.client_folders else "CLASS"
            raise DataError(f"{path} holds no images in folders {kind}; see data.client_folders")
        labels = np.array([file.parent.name for file in files])
        targets, names = as_targets(labels, what=f"{path}: folders", class_names=class_names)
        columns = {}
        if self.client_folders:
            columns["client"] = np.array([file.parent.parent.name for file in files])
        return decode_once(files, self.size), np.asarray(targets), names, columns


_BYTES: Final = Scaling(divide_by=255)


def decode_once(files: Sequence[Path], size: tuple[int, int] | None) -> Array:
    """Return images, (N, C, H, W) bytes, memory-mapped from a file if there is a cache.

    Args:
        files: the images, in order.
        size: the height and width that they are resized to; None: they have one size.

    Raises:
        DataError: if one cannot be read, or their sizes differ.
    """
    folder = cache_folder("images") / _key(files, size)
    with suppress(OSError, ValueError):  # missing, or cut short
        return _mapped(folder, len(files))
    shape = _shape(files, size)

    def write(draft: Path) -> None:
        decoded = np.lib.format.open_memmap(draft / _FILE, "w+", np.uint8, shape)
        _decode(files, size, decoded)
        decoded.flush()

    with suppress(OSError, ValueError):  # no folder that can be written
        write_folder(folder, write)
        return _mapped(folder, len(files))
    decoded = np.empty(shape, np.uint8)
    _decode(files, size, decoded)
    return decoded


_FILE: Final = "images.npy"


def _mapped(folder: Path, num_images: int) -> Array:
    found: Array = np.load(folder / _FILE, mmap_mode="r")
    if len(found) != num_images:
        raise ValueError(f"{folder} holds other images")
    return found


def _key(files: Sequence[Path], size: tuple[int, int] | None) -> str:
    total = hashlib.sha256(f"{_VERSION} {size} {len(files)}".encode())
    for file in files:
        with _read_bytes(file) as content:
            total.update(hashlib.file_digest(content, "sha256").digest())
    return total.hexdigest()


def _shape(files: Sequence[Path], size: tuple[int, int] | None) -> tuple[int, int, int, int]:
    """Return the shape of all images, from their files' first bytes."""
    channels, first = 1, None
    for file in files:
        with _opened(file) as image:
            channels = max(channels, num_channels(image, what=str(file)))
            first = first or image.size
            if size is None and image.size != first:
                raise DataError(
                    f"{file} is {size_of(*image.size)}, {files[0]} {size_of(*first)}; set data.size"
                )
    assert first is not None, "there are images"
    height, width = size or (first[1], first[0])
    return len(files), channels, height, width


def _decode(files: Sequence[Path], size: tuple[int, int] | None, decoded: Array) -> None:
    for row, file in enumerate(files):
        with _opened(file) as image:
            scaled = image
            if size is not None and image.size != size[::-1]:
                grey = num_channels(image, what=str(file)) == 1
                scaled = image.convert("L" if grey else "RGB").resize(size[::-1])
            decoded[row] = pixels_of(scaled, what=str(file))


@contextmanager
def _read_bytes(file: Path) -> Iterator[Any]:
    try:
        with open_regular(str(file)) as content:
            yield content
    except OSError as error:
        raise DataError(file_fault(str(file), error)) from error


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    from PIL import Image

    with _read_bytes(file) as content:
        try:
            with Image.open(content) as image:
                yield image
        except SimflError:
            raise
        except Exception as error:  # Pillow raises many
            raise DataError(f"{file} cannot be read as an image: {one_line(error)}") from error
