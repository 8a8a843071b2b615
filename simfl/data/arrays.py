"""From named arrays to a source's data: dtypes, class ids, and the names of arrays.

Dtypes: all floats become float32. Integer inputs stay integers: uint8, int32
and int64 as they are, the others become int64. Targets are int64 class ids (or counts) or float32;
text targets become class ids in the sorted order of the text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from simfl.data.dataset import Array, ArrayTree, Examples, Values
from simfl.data.ragged import Ragged
from simfl.data.source import SourceData
from simfl.errors import DataError, did_you_mean, one_line

_KEPT_INTEGERS = (np.uint8, np.int32, np.int64)
_NAMES = ("inputs", "targets", "test_inputs", "test_targets", "class_names")


def as_inputs(inputs: Any, *, what: str) -> ArrayTree:
    """Return inputs as float32, bool or integers.

    Raises:
        DataError: if an array holds text or objects, or has no axis.
    """
    if isinstance(inputs, Mapping):
        return {name: _input(array, what=f"{what}.{name}") for name, array in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(_input(array, what=f"{what}[{i}]") for i, array in enumerate(inputs))
    return _input(inputs, what=what)


def as_targets(
    value: Any, *, what: str, class_names: tuple[str, ...] = ()
) -> tuple[Values, tuple[str, ...]]:
    """Return targets as int64 or float32, and the names of the classes if they were text.

    Args:
        value: an array, or what numpy converts to one.
        what: its name in errors.
        class_names: the known ones, such as those of the training examples.

    Raises:
        DataError: if it holds objects, or a class that is not among ``class_names``.
    """
    if isinstance(value, Ragged):
        return value, class_names
    array = np.asarray(value)
    if array.dtype.kind in "US":
        return _class_ids(_text(array, what=what), what=what, class_names=class_names)
    array = _numeric(array, what=what)
    is_float = array.dtype.kind == "f"
    return _as_float32(array) if is_float else _as_int64(array, what=what), class_names


def as_column(value: Any, *, what: str) -> Array:
    """Return one value per example, numbers or text.

    Raises:
        DataError: unless it has one axis, or if it holds objects.
    """
    array = np.asarray(value)
    if array.dtype.kind in "OVcmM":
        raise DataError(f"{what} holds {array.dtype} values; a column holds numbers or text")
    if array.ndim != 1:
        raise DataError(f"{what} has shape {array.shape}; a column has one value per example")
    return _text(array, what=what) if array.dtype.kind == "S" else array


def with_our_dtypes(data: SourceData, *, origin: str) -> SourceData:
    """Return source data with the dtypes above, and class ids for text targets.

    Args:
        data: arrays of any dtype, or values that numpy converts to arrays.
        origin: their origin, for errors.

    Raises:
        DataError: for an array that cannot be used, with the reason.
    """
    train, names = _examples(data.train, what=f"{origin}: ", class_names=data.class_names)
    test = None
    if data.test is not None:
        test, _ = _examples(data.test, what=f"{origin}: test_", class_names=names)
    return dataclasses.replace(
        data,
        train=train,
        test=test,
        columns=_as_columns(data.columns, origin=f"{origin}: "),
        test_columns=_as_columns(data.test_columns, origin=f"{origin}: test "),
        class_names=names,
    )


def _as_columns(columns: Mapping[str, Any], *, origin: str) -> dict[str, Array]:
    return {
        name: as_column(array, what=f"{origin}column {name!r}") for name, array in columns.items()
    }


def source_data_from_arrays(arrays: Mapping[str, Any], *, origin: str) -> SourceData:
    """Sort named arrays into train and test examples and columns.

    Args:
        arrays: ``inputs`` (or ``inputs.NAME`` for each of several), ``targets``, and optionally
            ``test_inputs``, ``test_targets``, ``class_names``; any other is a column, and with
            ``test_`` before its name, that column of the test examples.
        origin: their origin, for errors.

    Raises:
        DataError: if one is missing, has a dtype that cannot be used, or another length.
    """
    names = tuple(map(str, np.asarray(arrays.get("class_names", ())).reshape(-1).tolist()))
    has_test = any(name.startswith(("test_inputs", "test_targets")) for name in arrays)
    train = _split_of(arrays, "", origin=origin)
    test = _split_of(arrays, "test_", origin=origin) if has_test else None
    data = with_our_dtypes(SourceData(train, test, class_names=names), origin=origin)
    others = {
        name: array
        for name, array in arrays.items()
        if name not in _NAMES and not name.startswith(("inputs.", "test_inputs."))
    }
    tested = {name: f"test_{name}" for name in others if f"test_{name}" in others}
    tested = {} if data.test is None else tested
    return dataclasses.replace(
        data,
        columns={
            name: _column_of_length(name, array, data.train, "training", origin=origin)
            for name, array in others.items()
            if name not in tested.values()
        },
        test_columns={
            name: _column_of_length(own, others[own], data.test, "test", origin=origin)
            for name, own in tested.items()
        },
    )


def _examples(
    examples: Examples, *, what: str, class_names: tuple[str, ...]
) -> tuple[Examples, tuple[str, ...]]:
    inputs = as_inputs(examples.inputs, what=f"{what}inputs")
    targets, names = as_targets(examples.targets, what=f"{what}targets", class_names=class_names)
    return dataclasses.replace(examples, inputs=inputs, targets=targets), names


def _split_of(arrays: Mapping[str, Any], prefix: str, *, origin: str) -> Examples:
    inputs = _inputs_named(arrays, f"{prefix}inputs", origin=origin)
    return Examples(inputs, _required(arrays, f"{prefix}targets", origin=origin))


def _inputs_named(arrays: Mapping[str, Any], name: str, *, origin: str) -> Any:
    several = {key.removeprefix(f"{name}."): key for key in arrays if key.startswith(f"{name}.")}
    if several and name in arrays:
        raise DataError(f"{origin} holds both {name!r} and {several.popitem()[1]!r}; leave one out")
    if several:
        return {short: arrays[key] for short, key in several.items()}
    return _required(arrays, name, origin=origin)


def _required(arrays: Mapping[str, Any], name: str, *, origin: str) -> Any:
    if name not in arrays:
        there = ", ".join(map(one_line, arrays)) or "nothing"
        raise DataError(f"{origin} has no array {name!r}; it holds {there}")
    return arrays[name]


def _column_of_length(
    name: str, value: Any, examples: Examples | None, kind: str, *, origin: str
) -> Array:
    assert examples is not None, "there is such a split"
    what = f"{origin}: array {name!r}"
    array = np.asarray(value)
    if array.shape[:1] != (len(examples),):
        raise DataError(
            f"{what} has shape {array.shape}, but a column has one value for each of the "
            f"{len(examples)} {kind} examples. {did_you_mean(name, _NAMES)}"
        )
    return as_column(array, what=what)


def _input(value: Any, *, what: str) -> Values:
    if isinstance(value, Ragged):
        return value
    array = _numeric(value, what=what)
    if array.dtype.kind == "f":
        return _as_float32(array)
    if array.dtype.kind == "b" or array.dtype in _KEPT_INTEGERS:
        return array
    return _as_int64(array, what=what)


def _numeric(value: Any, *, what: str) -> Array:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        kind = "text" if array.dtype.kind in "US" else f"{array.dtype} values"
        raise DataError(f"{what} holds {kind}; numbers are needed")
    if array.ndim == 0:
        raise DataError(f"{what} is the single value {array}; an axis of examples is needed")
    return array


def _text(array: Array, *, what: str) -> Array:
    try:
        return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
    except UnicodeDecodeError:
        raise DataError(
            f"{what} contains bytes that are not UTF-8 text; give numbers or text"
        ) from None


def _as_float32(array: Array) -> Array:
    # Numbers that are too large become infinite here, and are reported later with their row.
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def _as_int64(array: Array, *, what: str) -> Array:
    if array.dtype == np.uint64 and array.max(initial=0) > np.iinfo(np.int64).max:
        raise DataError(f"{what} contains the integer {array.max()}, but torch's end at 2^63 - 1")
    return array.astype(np.int64, copy=False)


def _class_ids(
    array: Array, *, what: str, class_names: tuple[str, ...]
) -> tuple[Array, tuple[str, ...]]:
    found, ids = np.unique(array, return_inverse=True)
    if not class_names:
        return ids.astype(np.int64), tuple(found.tolist())
    position = {name: index for index, name in enumerate(class_names)}
    if unknown := [name for name in found.tolist() if name not in position]:
        raise DataError(f"{what} holds the class {unknown[0]!r}; {_known_classes(class_names)}")
    return np.array([position[name] for name in found.tolist()], np.int64)[ids], class_names


def _known_classes(class_names: tuple[str, ...]) -> str:
    shown = ", ".join(map(one_line, class_names[:10]))
    return f"the training examples' are {shown}{', ...' if len(class_names) > 10 else ''}"
