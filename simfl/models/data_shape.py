"""DataShape: what a model must know of the data to fit itself to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from simfl.errors import DataError

Axes: TypeAlias = "tuple[int, ...]"
"""The shape of one example, without the example's axis."""

Array: TypeAlias = "np.ndarray[Any, Any]"


@dataclass(frozen=True)
class DataShape:
    """The shapes of one example, and how many symbols its integers are drawn from."""

    inputs: Axes | tuple[Axes, ...] | dict[str, Axes]
    """The input's axes; of several inputs each one's, by position or by name."""
    target_shape: Axes = ()
    """The target's axes; () is one number per example."""
    num_classes: int | None = None
    """The largest target + 1 where targets are integers, else None."""
    vocabulary: int | None = None
    """The largest input + 1, over the inputs that are integers; None where none is."""

    @property
    def single_input(self) -> Axes | None:
        """The input's axes, or None if there are several inputs."""
        if isinstance(self.inputs, dict):
            return None
        axes = tuple(size for size in self.inputs if isinstance(size, int))
        return axes if len(axes) == len(self.inputs) else None


def data_shape(
    inputs: Array | tuple[Array, ...] | dict[str, Array], targets: Array, *, is_scaled: bool = False
) -> DataShape:
    """Read the shape of the data off its arrays.

    Args:
        inputs: [N, ...] arrays of N examples, one at least: a single one, or several by position
            or by name.
        targets: [N, ...] classes if integer or boolean, otherwise the numbers to predict.
        is_scaled: whether the model is given floats, whatever the inputs are.

    Raises:
        DataError: if there is no example, or a class or token is negative.

    >>> data_shape(np.zeros((5, 1, 28, 28), np.float32), np.array([0, 9, 3, 1, 1])).num_classes
    10
    """
    if len(targets) == 0:
        raise DataError("the data hold no example, so a model cannot be fitted to their shape")
    return DataShape(
        inputs=_axes(inputs),
        target_shape=targets.shape[1:],
        num_classes=_num_symbols("targets", targets),
        vocabulary=None if is_scaled else _vocabulary(inputs),
    )


def _axes(
    inputs: Array | tuple[Array, ...] | dict[str, Array],
) -> Axes | tuple[Axes, ...] | dict[str, Axes]:
    if isinstance(inputs, dict):
        return {name: array.shape[1:] for name, array in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(array.shape[1:] for array in inputs)
    axes: Axes = inputs.shape[1:]
    return axes


def _vocabulary(inputs: Array | tuple[Array, ...] | dict[str, Array]) -> int | None:
    if isinstance(inputs, dict):
        inputs = tuple(inputs.values())
    arrays = inputs if isinstance(inputs, tuple) else (inputs,)
    integers = [array for array in arrays if array.dtype.kind in "iu"]
    return max((_num_symbols("inputs", array) or 0 for array in integers), default=None)


def _num_symbols(what: str, array: Array) -> int | None:
    if array.dtype.kind == "b":
        return 2
    if array.dtype.kind not in "iu":
        return None
    if array.size == 0:
        return 0
    if (smallest := int(array.min())) < 0:
        raise DataError(
            f"{what} hold the integer {smallest}; classes and tokens count from 0, "
            "and numbers that are neither must be floats"
        )
    return int(array.max()) + 1
