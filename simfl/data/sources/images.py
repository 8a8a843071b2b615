"""From images to one array. Axes: N images, H height, W width, C channels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from simfl.data.dataset import Array
from simfl.errors import DataError

_GREY = ("1", "L")
_COLOUR = ("RGB", "RGBA", "P", "PA", "LA", "CMYK", "YCbCr", "HSV", "LAB", "RGBX")


def decode_images(images: Iterable[Any], *, what: str) -> Array:
    """Decode PIL images of one size: (N, C, H, W), bytes.

    Grey images have one channel; where any image has colour all get three. Transparency is
    dropped.

    Args:
        images: the images, in order.
        what: what an error calls them.

    Raises:
        DataError: for an image of another size than the first, a missing one, or one whose pixels
            aren't bytes.
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
        raise DataError(f"{what}: images of mode {image.mode!r} can't be used; save it as L or RGB")
    array = np.asarray(image.convert("L" if image.mode in _GREY else "RGB"), np.uint8)
    return array[:, :, np.newaxis] if array.ndim == 2 else array


def _size(pixels: Array) -> str:
    return f"{pixels.shape[1]} by {pixels.shape[0]} pixels"
