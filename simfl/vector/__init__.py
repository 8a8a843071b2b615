"""Vectors, which are named tensors with arithmetic, and functions of values that hold some."""

from simfl.vector.arithmetic import Scalar
from simfl.vector.keyed import Keyed
from simfl.vector.values import (
    count_bytes,
    find_vectors,
    is_finite,
    map_leaves,
    move,
    rows_of,
    tensors_of,
    to_device,
    widened,
)
from simfl.vector.vector import Layout, Vector

__all__ = [
    "Keyed",
    "Layout",
    "Scalar",
    "Vector",
    "count_bytes",
    "find_vectors",
    "is_finite",
    "map_leaves",
    "move",
    "rows_of",
    "tensors_of",
    "to_device",
    "widened",
]
