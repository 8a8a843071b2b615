"""The contract of sources, and checks of their data before these are split over clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

import numpy as np

from simfl.component import Component
from simfl.data.dataset import Array, ArrayTree, Examples, FederatedDataset, Values
from simfl.data.ragged import Ragged
from simfl.data.table_encoding import TableEncoder
from simfl.errors import DataError, one_line

_CHUNK_CELLS: Final = 1 << 22


@dataclass(frozen=True)
class SourceData:
    """A source's data before they are split over clients.

    Arrays have the dtypes of ``simfl.data.arrays``: floats are float32, class ids int64.
    """

    train: Examples
    """The examples that are split over clients."""
    test: Examples | None = None
    """The source's own test split, or None."""
    columns: dict[str, Array] = field(default_factory=dict)
    """Name -> one value per training example, such as "client", for partitions to use."""
    class_names: tuple[str, ...] = ()
    """The names of the class ids; empty if targets are not class ids or have no names."""
    notes: tuple[str, ...] = ()
    """What the user should know of them, one line each, such as how many were left out."""
    encode: Callable[[str], Sequence[int]] | None = None
    """Maps further text to tokens, for metrics; None: the examples are not text."""
    test_columns: dict[str, Array] = field(default_factory=dict)
    """Name -> one value per test example, of those columns that the test split has, too."""
    encoder: TableEncoder | None = None
    """What makes inputs of columns, once it is known which examples clients train on; None: the
    inputs are complete."""


class Source(Component, kind="source"):
    """A source of examples.

    To write one, override ``load``. It must depend only on the fields, the seed and the files that
    the fields name.
    """

    file_fields: ClassVar[tuple[str, ...]] = ()
    """The fields that name a file, relative to the scenario's folder or to the current one."""
    file_or_name_fields: ClassVar[tuple[str, ...]] = ()
    """The fields that hold the path of a file or folder, or a name."""
    json_file_or_name_fields: ClassVar[tuple[str, ...]] = ()
    """The fields that hold the path of a file that ends with .json, or a name."""

    def for_model(self, model: Component) -> Source:
        """Return the source for a scenario with this model; by default this source itself."""
        return self

    def whole(self) -> FederatedDataset | None:
        """Return the data set, if the source has already split it over clients; by default None."""
        return None

    def load(self, *, seed: int) -> SourceData:
        """Read or generate the examples.

        Args:
            seed: the run's; a source without randomness ignores it.

        Raises:
            DataError: for a file that is missing or invalid.
            MissingExtraError: if the package that reads it is not installed.
        """
        raise NotImplementedError(f"{type(self).__name__} has no load()")


def file_fault(path: str, error: OSError) -> str:
    """Return the reason why a data file cannot be read."""
    if isinstance(error, FileNotFoundError):
        return f"there is no file {path}"
    # pyarrow's have no strerror, but several lines.
    reason = error.strerror or str(error).partition("\n")[0]
    return f"{path} cannot be read: {one_line(reason)}"


def check_source_data(data: SourceData) -> None:
    """Check data that training would fail on later.

    Raises:
        DataError: if there are no examples, arrays differ in length, a number is NaN or infinite,
            or the test split does not match the training examples.
    """
    has_gaps = data.encoder is not None
    check_examples(data.train, what="training", has_gaps=has_gaps)
    _check_columns(data.columns, data.train, what="training")
    if data.test is not None:
        check_examples(data.test, what="test", has_gaps=has_gaps)
        check_alike(data.train, data.test, what="test")
        _check_columns(data.test_columns, data.test, what="test")


def _check_columns(columns: Mapping[str, Array], examples: Examples, *, what: str) -> None:
    for name, column in columns.items():
        if len(column) != len(examples):
            raise DataError(
                f"column {name!r} has {len(column)} values, but there are {len(examples)} {what} "
                "examples"
            )


def check_examples(examples: Examples, *, what: str, has_gaps: bool = False) -> None:
    """Check that there are examples, of one number everywhere, and finite.

    Args:
        examples: with the dtypes of ``simfl.data.arrays``.
        what: what they are called.
        has_gaps: whether inputs are columns that are not encoded yet.

    Raises:
        DataError: naming what is wrong, and the row.
    """
    if len(examples) == 0:
        raise DataError(f"there are no {what} examples")
    arrays = _named(examples.inputs)
    for name, array in arrays.items():
        if len(array) != len(examples):
            raise DataError(
                f"the {what} {name} has {len(array)} rows, but there are {len(examples)} targets"
            )
    checked = {} if has_gaps else arrays
    for name, array in {**checked, "targets": examples.targets}.items():
        _check_finite(array, what=f"{what} {name}")


def _check_finite(array: Values, *, what: str) -> None:
    if isinstance(array, Ragged) or array.dtype.kind != "f" or array.size == 0:
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


def check_alike(train: Examples, others: Examples, *, what: str) -> None:
    """Check that other examples are scaled and shaped as the training examples.

    Args:
        train: the training examples.
        others: the others.
        what: what they are called: "test" or "public".

    Raises:
        DataError: naming what differs.
    """
    if train.scaling != others.scaling:
        raise DataError(
            f"the {what} inputs are scaled by {others.scaling}, but the training inputs by "
            f"{train.scaling}"
        )
    wanted = _layout(train)
    for name, found in _layout(others).items():
        if name not in wanted:
            raise DataError(f"the {what} examples have {name}, which the training examples lack")
        if found != wanted[name]:
            raise DataError(
                f"the {what} {name} are {found} per example, but the training {name} {wanted[name]}"
            )
    if lacking := wanted.keys() - _layout(others).keys():
        raise DataError(
            f"the {what} examples lack {min(lacking)}, which the training examples have"
        )


def _layout(examples: Examples) -> dict[str, str]:
    arrays = {**_named(examples.inputs), "targets": examples.targets}
    return {name: _describe(array) for name, array in arrays.items()}


def _describe(array: Values) -> str:
    if isinstance(array, Ragged):
        tokens = array.vocabulary
        return f"at most {array.width} of {tokens.size} tokens {tokens.tokenizer}".rstrip()
    return f"{array.dtype} of shape {array.shape[1:]}"


def _named(inputs: ArrayTree) -> Mapping[str, Values]:
    if isinstance(inputs, dict):
        return {f"inputs.{name}": array for name, array in inputs.items()}
    if isinstance(inputs, tuple):
        return {f"inputs[{index}]": array for index, array in enumerate(inputs)}
    return {"inputs": inputs}
