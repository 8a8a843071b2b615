"""Images as arrays of bytes.

Shapes: H height, W width, C channels.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from simfl.data.dataset import Array
from simfl.errors import DataError

_GREY: Final = ("1", "L")
_COLOUR: Final = ("RGB", "RGBA", "P", "PA", "LA", "CMYK", "YCbCr", "HSV", "LAB", "RGBX")


def num_channels(image: Any, *, what: str) -> int:
    """Return 1 for a grey image of Pillow's, 3 for one with colour.

    Raises:
        DataError: if its pixels are not bytes.
    """
    if image.mode not in _GREY + _COLOUR:
        raise DataError(
            f"{what}: images of mode {image.mode!r} cannot be used; save it as L or RGB"
        )
    return 1 if image.mode in _GREY else 3


def pixels_of(image: Any, *, what: str) -> Array:
    """Return an image's pixels: (C, H, W), bytes. Transparency is dropped.

    Raises:
        DataError: if its pixels are not bytes.
    """
    grey = num_channels(image, what=what) == 1
    array = np.asarray(image.convert("L" if grey else "RGB"), np.uint8)
    return array[np.newaxis] if grey else array.transpose(2, 0, 1)


def size_of(width: int, height: int) -> str:
    """Return a size, for errors."""
    return f"{width} by {height} pixels"
