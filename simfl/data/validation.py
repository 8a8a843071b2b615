"""Checks on data before anyone trains on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from simfl.data.dataset import Array, ArrayTree, Examples
from simfl.data.partition import Partition
from simfl.data.source import SourceData
from simfl.errors import DataError

_CHUNK_CELLS: Final = 1 << 22


def check_source_data(data: SourceData) -> None:
    """Check all that training would trip over later.

    Raises:
        DataError: if there are no examples, arrays differ in length, a number is NaN or infinite,
            or the test split is not like the training examples.
    """
    _check_examples(data.train, what="training")
    for name, column in data.columns.items():
        if len(column) != len(data.train):
            raise DataError(
                f"column {name!r} has {len(column)} values, but there are {len(data.train)} "
                "training examples"
            )
    if data.test is not None:
        _check_examples(data.test, what="test")
        _check_alike(data.train, data.test)


def check_split(split: Any, *, examples: int, partition: Partition) -> tuple[Array, Array]:
    """Check the rows and offsets that a partition returned; return them, each (any,) int64.

    Raises:
        DataError: if they are not such arrays, the number of clients differs from the partition's,
            a client holds no row, or a row is out of range or held twice.
    """
    where = f"data.partition {partition.name!r}"
    if not isinstance(split, tuple | list) or len(split) != 2:
        raise DataError(f"{where} returned {type(split).__name__}; it must return (rows, offsets)")
    rows = _integers(split[0], what=f"{where} returned rows")
    offsets = _integers(split[1], what=f"{where} returned offsets")
    sizes, expected = np.diff(offsets), partition.num_clients
    if len(sizes) == 0 or offsets[0] != 0 or offsets[-1] != len(rows):
        raise DataError(f"{where} returned offsets that don't go from 0 to its {len(rows)} rows")
    if expected is not None and len(sizes) != expected:
        raise DataError(f"{where} made {len(sizes)} clients, but its num_clients is {expected}")
    if (sizes < 1).any():
        client = int((sizes < 1).argmax())
        raise DataError(f"{where} left client {client} without examples; each must hold one")
    if (is_out := (rows < 0) | (rows >= examples)).any():
        raise DataError(
            f"{where} returned row {rows[is_out][0]}, but there are {examples} examples, "
            "numbered from 0"
        )
    uses = np.bincount(rows, minlength=examples)
    if uses.max() > 1:
        raise DataError(f"{where} returned row {int(uses.argmax())} {uses.max()} times")
    return rows, offsets


def _integers(values: Any, *, what: str) -> Array:
    try:
        array = np.asarray(values)
    except ValueError:  # a list of lists of several lengths
        raise DataError(
            f"{what} of several lengths; they must be a 1-D array of integers"
        ) from None
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise DataError(
            f"{what} of {array.dtype} and shape {list(array.shape)}; they must be a 1-D "
            "array of integers"
        )
    return array.astype(np.int64, copy=False)


def _check_examples(examples: Examples, *, what: str) -> None:
    if len(examples) == 0:
        raise DataError(f"there are no {what} examples")
    arrays = _named(examples.inputs)
    for name, array in arrays.items():
        if len(array) != len(examples):
            raise DataError(
                f"the {what} {name} has {len(array)} rows, but there are {len(examples)} targets"
            )
    for name, array in {**arrays, "targets": examples.targets}.items():
        _check_finite(array, what=f"{what} {name}")


def _check_finite(array: Array, *, what: str) -> None:
    if array.dtype.kind != "f" or array.size == 0:
        return
    step = max(1, _CHUNK_CELLS // (array.size // len(array) or 1))
    for start in range(0, len(array), step):
        finite = np.isfinite(array[start : start + step])
        if finite.all():
            continue
        place = np.unravel_index(int(finite.argmin()), finite.shape)
        row = start + int(place[0])
        raise DataError(
            f"the {what} hold {array[(row, *place[1:])]} at row {row}; "
            "fill in such values or leave those rows out"
        )


def _check_alike(train: Examples, test: Examples) -> None:
    if train.scaling != test.scaling:
        raise DataError(
            f"the test inputs are scaled by {test.scaling}, but the training inputs by "
            f"{train.scaling}"
        )
    wanted = _layout(train)
    for name, found in _layout(test).items():
        if name not in wanted:
            raise DataError(f"the test examples have {name}, which the training examples lack")
        if found != wanted[name]:
            raise DataError(
                f"the test {name} are {found} per example, but the training {name} {wanted[name]}"
            )
    if lacking := wanted.keys() - _layout(test).keys():
        raise DataError(f"the test examples lack {min(lacking)}, which the training examples have")


def _layout(examples: Examples) -> dict[str, str]:
    arrays = {**_named(examples.inputs), "targets": examples.targets}
    return {name: f"{array.dtype} of shape {array.shape[1:]}" for name, array in arrays.items()}


def _named(inputs: ArrayTree) -> Mapping[str, Array]:
    if isinstance(inputs, dict):
        return {f"inputs.{name}": array for name, array in inputs.items()}
    if isinstance(inputs, tuple):
        return {f"inputs[{index}]": array for index, array in enumerate(inputs)}
    return {"inputs": inputs}
