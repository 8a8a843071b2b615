"""FederatedDataset: whole arrays of examples, and for each client a slice of an index into them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from simfl.data.mapped import MappedArray
from simfl.data.ragged import IGNORED, Ragged

Array: TypeAlias = "np.ndarray[Any, Any]"
Values: TypeAlias = "Array | Ragged"
"""An array whose first axis is the example, or sequences of several lengths."""
ArrayTree: TypeAlias = "Values | tuple[Values, ...] | dict[str, Values]"
"""The inputs of a model: one array, positional arguments, or keyword arguments by name."""


@dataclass(frozen=True)
class Scaling:
    """How inputs become float32 when a batch is read: (x / divide_by - mean) / std.

    Until then they keep their type: images of bytes take a quarter of the memory of floats on the
    driver, in the object store and on a GPU. Each operation rounds to float32, in this order, as in
    numpy and torch.
    """

    divide_by: float = 1.0
    mean: tuple[float, ...] = ()
    """One for each channel, the first axis of an input, or one for all; (): none."""
    std: tuple[float, ...] = ()
    """Likewise."""


@dataclass(frozen=True)
class Examples:
    """N examples: inputs and targets; the first axis is the example."""

    inputs: ArrayTree
    targets: Values
    scaling: Scaling | None = None
    """How inputs become float32 when a batch is read; None: the model gets them as they are."""
    choices: tuple[Ragged, ...] = ()
    """The tokens of each of the choices that examples have, for ``multiple-choice``; none of the
    last ones for an example that has fewer."""
    stays_in_files: bool = False
    """Whether arrays that are mapped from files are read there by all processes, instead of being
    sent to them; they may be larger than memory, and are not to be copied."""

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def longest(self) -> int | None:
        """The row of the longest sequence; None if the inputs are arrays."""
        sequences = [value for value in arrays_of(self.inputs) if isinstance(value, Ragged)]
        return int(np.argmax(sequences[0].lengths)) if sequences and len(self) else None

    def __reduce__(self) -> Any:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if self.stays_in_files:
            values["inputs"] = map_tree(self.inputs, MappedArray.of)
        return _opened, (values,)


def _opened(values: dict[str, Any]) -> Examples:
    """Return examples whose inputs may be in files."""

    def open_array(value: Any) -> Any:
        return value.open() if isinstance(value, MappedArray) else value

    return Examples(**{**values, "inputs": map_tree(values["inputs"], open_array)})


def map_tree(tree: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to each array of a tree."""
    if isinstance(tree, dict):
        return {name: function(value) for name, value in tree.items()}
    return tuple(map(function, tree)) if isinstance(tree, tuple) else function(tree)


@dataclass(frozen=True)
class FederatedDataset:
    """Examples of all clients, the rows each client holds, and the examples of the test split.

    A million clients cost megabytes: ``rows`` is one permutation of (some of) the examples, and
    client c trains on ``rows[offsets[c] : holdout_offsets[c]]`` and keeps the rest up to
    ``offsets[c + 1]`` for its own evaluation.
    """

    train: Examples
    """The examples of all clients."""
    rows: Array
    """[sum of the clients' examples] int64 rows of ``train``, client after client."""
    offsets: Array
    """[clients + 1] int64, where each client's rows begin."""
    holdout_offsets: Array
    """[clients] int64, where each client's rows for evaluation begin; their end if it has none."""
    test: Examples | None = None
    """The central test split, or None."""
    public: Examples | None = None
    """The public examples, which the server has, or None."""
    class_names: tuple[str, ...] = ()
    """The names of the class ids; empty if targets are not class ids or have no names."""
    client_columns: Mapping[str, Array] = field(default_factory=dict)
    """Name -> [clients], properties of clients, such as the class of the device."""
    notes: tuple[str, ...] = ()
    """What the user should know of the examples, one line each."""
    encode: Callable[[str], Sequence[int]] | None = None
    """Maps further text to tokens, for metrics; None: the examples are not text."""

    @property
    def num_clients(self) -> int:
        """The size of the population."""
        return len(self.offsets) - 1

    @property
    def parts(self) -> list[Examples]:
        """The training examples, and those of the test split and the public ones, if any."""
        return [part for part in (self.train, self.test, self.public) if part is not None]

    @property
    def num_bytes(self) -> int:
        """The size of all arrays together."""
        arrays = [self.rows, self.offsets, self.holdout_offsets]
        for part in self.parts:
            for values in (part.targets, *arrays_of(part.inputs), *part.choices):
                arrays += values.arrays if isinstance(values, Ragged) else [values]
        # Sequences share their arrays: inputs and targets, and the test split.
        return sum({id(array): array.nbytes for array in arrays}.values())

    def train_rows(self, client: int) -> Array:
        """Return the rows that the client trains on."""
        rows: Array = self.rows[self.offsets[client] : self.holdout_offsets[client]]
        return rows

    def holdout_rows(self, client: int) -> Array:
        """Return the rows that the client keeps for its own evaluation."""
        rows: Array = self.rows[self.holdout_offsets[client] : self.offsets[client + 1]]
        return rows

    def evaluation_rows(self, client: int) -> Array:
        """Return the rows the client is evaluated on: its holdout, or all if it has none."""
        held_out = self.holdout_rows(client)
        return held_out if len(held_out) else self.train_rows(client)

    def num_train_examples(self, clients: Sequence[int] | None = None) -> Array:
        """Return the number of examples that each of these clients, or of all, trains on: int64."""
        which = slice(self.num_clients) if clients is None else np.asarray(clients)
        counts: Array = self.holdout_offsets[which] - self.offsets[which]
        return counts

    def num_train_targets(self, client: int) -> int:
        """Return how many targets, such as tokens, the client trains on; see ``count_targets``."""
        return count_targets(self.train.targets, self.train_rows(client))

    def num_evaluation_examples(self) -> Array:
        """Return the number of examples that each client is evaluated on: int64."""
        held_out = self.offsets[1:] - self.holdout_offsets
        return np.where(held_out > 0, held_out, self.num_train_examples())

    def digest(self) -> str:
        """Return the sha256 of all data and their assignment to clients; takes about 1 s per GB."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        total = hashlib.sha256()
        for part in self.parts:
            names = list(part.inputs) if isinstance(part.inputs, dict) else []
            total.update(repr((len(part), names)).encode())
            _add(total, *arrays_of(part.inputs), part.targets, *part.choices)
        _add(total, self.rows, self.offsets, self.holdout_offsets)
        for name, column in self.client_columns.items():
            total.update(name.encode())
            _add(total, column)
        return total.hexdigest()

    def without_examples(self) -> FederatedDataset:
        """Return the data set with the clients' numbers of examples, but without the examples."""
        nothing = Examples(np.empty(0, np.float32), np.empty(0, np.int64))
        no_rows = np.empty(0, np.int64)
        return dataclasses.replace(self, train=nothing, rows=no_rows, test=None, public=None)

    def pool(self, clients: Sequence[int]) -> Examples:
        """Return the examples that these clients train on, client after client; a copy."""
        rows = np.concatenate([self.train_rows(client) for client in clients])
        inputs, targets = take_rows(self.train.inputs, rows), self.train.targets[rows]
        return Examples(inputs, targets, self.train.scaling)

    @staticmethod
    def of_one(examples: Examples) -> FederatedDataset:
        """Return the data set of a single client that holds all examples."""
        offsets = np.array([0, len(examples)])
        return FederatedDataset(examples, np.arange(len(examples)), offsets, offsets[1:])


def _add(total: hashlib._Hash, *arrays: Values) -> None:
    for array in arrays:
        if isinstance(array, Ragged):
            array.update_hash(total)
            continue
        total.update(f"{array.dtype.str}{array.shape}".encode())
        is_plain = array.dtype.kind in "biufc" and array.size > 0
        total.update(np.ascontiguousarray(array).data if is_plain else array.tobytes())


def num_rows(tree: ArrayTree) -> int:
    """Return the length of the example axis."""
    return len(arrays_of(tree)[0])


def arrays_of(tree: ArrayTree) -> tuple[Values, ...]:
    """Return the arrays, in order."""
    if isinstance(tree, dict):
        return tuple(tree.values())
    return tree if isinstance(tree, tuple) else (tree,)


def select_rows(examples: Examples, rows: Array) -> Examples:
    """Return some of the examples; sequences of several lengths are not copied."""

    def select(values: Values) -> Values:
        return values.select(rows) if isinstance(values, Ragged) else values.take(rows, axis=0)

    inputs = map_tree(examples.inputs, select)
    choices = tuple(choice.select(rows) for choice in examples.choices)
    return Examples(inputs, select(examples.targets), examples.scaling, choices)


def join_examples(first: Examples, second: Examples) -> Examples:
    """Return the examples of both, one after another; a copy."""
    stored: dict[tuple[int, int], Array] = {}

    def join(one: Any, other: Any) -> Any:
        if not isinstance(one, Ragged):
            return np.concatenate([one, other])
        key = (id(one.values), id(other.values))  # inputs and targets share them
        if key not in stored:
            stored[key] = np.concatenate([one.values, other.values])
        return one.joined(other, values=stored[key])

    one, other = first.inputs, second.inputs
    inputs: ArrayTree
    if isinstance(one, dict):
        assert isinstance(other, dict), "both are alike"
        inputs = {name: join(values, other[name]) for name, values in one.items()}
    elif isinstance(one, tuple):
        assert isinstance(other, tuple), "both are alike"
        inputs = tuple(join(*pair) for pair in zip(one, other, strict=True))
    else:
        inputs = join(one, other)
    targets = join(first.targets, second.targets)
    choices = tuple(join(*pair) for pair in zip(first.choices, second.choices, strict=True))
    return Examples(inputs, targets, first.scaling, choices)


def count_targets(targets: Values, rows: Array) -> int:
    """Return how many targets of some examples count; one class or number is one."""
    if isinstance(targets, Ragged):
        return int(targets.select(rows).counts().sum())
    own = targets[rows]
    return int((own != IGNORED).sum()) if own.dtype.kind in "iu" else own.size


def take_rows(tree: ArrayTree, rows: Array) -> ArrayTree:
    """Return the rows of every array; a copy, in which sequences are padded."""

    def taken(values: Values) -> Any:
        if isinstance(values, Ragged) or values.flags.c_contiguous:
            return values.take(rows, axis=0)
        return np.ascontiguousarray(values[rows])  # take() would copy all of the values first

    found: ArrayTree = map_tree(tree, taken)
    return found


def positions_within(sizes: Array) -> Array:
    """Return 0 to size - 1 for each size, one after another: (sum of sizes,) int64.

    >>> positions_within(np.array([2, 3])).tolist()
    [0, 1, 0, 1, 2]
    """
    positions: Array = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return positions
