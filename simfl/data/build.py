"""From a source and a partition to the data set of a federation.

Shapes: N examples, C clients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import numpy as np

from simfl.data.client_tests import add_client_tests, with_client_tests
from simfl.data.dataset import (
    Array,
    Examples,
    FederatedDataset,
    Scaling,
    Values,
    arrays_of,
    positions_within,
    select_rows,
)
from simfl.data.partition import Partition, check_split
from simfl.data.partitions import Natural
from simfl.data.ragged import Ragged
from simfl.data.source import Source, SourceData, check_alike, check_examples, check_source_data
from simfl.data.table_encoding import FittedTable
from simfl.errors import ConfigError, DataError, did_you_mean
from simfl.seeding import numpy_generator


def build_dataset(
    source: Source,
    partition: Partition | None,
    *,
    seed: int,
    test_fraction: float = 0.0,
    holdout_fraction: float = 0.0,
    client_tests: bool = False,
    public: float | Source | None = None,
    client_columns: Collection[str] = (),
    scaling: Scaling | None = None,
) -> FederatedDataset:
    """Load a source, split it over clients, and set apart the examples for evaluation.

    Args:
        source: the source of the examples.
        partition: how examples are assigned to clients; None uses the source's column "client".
        seed: the run's; the same seed gives the same data set.
        test_fraction: the fraction of the training examples, and of each class, that becomes the
            test split; 0 leaves the source's test split as it is.
        holdout_fraction: the fraction of its examples that each client keeps for evaluation.
        client_tests: whether each client is evaluated on the test examples that have its id.
        public: the fraction of the training examples, and of each class, that the server has and no
            client; or the source whose training examples it has.
        client_columns: columns of the source that describe clients, not examples.
        scaling: how inputs are scaled for the model, after the source's own scaling.

    Raises:
        ConfigError: for a fraction outside [0, 1), a test split on top of the source's own, or a
            partition or scaling that does not fit these examples.
        DataError: if the data cannot be read or trained on.
    """
    shares = {"test_fraction": test_fraction, "holdout_fraction": holdout_fraction}
    shares |= {} if isinstance(public, Source) else {"public": public or 0.0}
    _check_shares(shares, client_tests=client_tests)
    data = source.load(seed=seed)
    check_source_data(data)
    if data.train.stays_in_files:
        _refuse_copies(test_fraction=test_fraction, client_tests=client_tests, public=public)
    if test_fraction > 0:
        data = take_test_split(data, fraction=test_fraction, seed=seed)
    data, shared = _take_public(data, public, seed=seed)
    data = _scaled(data, scaling)
    chosen = partition if partition is not None else _by_client(data)
    split = chosen.split(cast(Array, data.train.targets), data.columns, seed=seed)
    rows, offsets = check_split(split, examples=len(data.train), partition=chosen)
    holdout_offsets = offsets[1:]
    columns = {name: _client_column(data.columns, name, rows, offsets) for name in client_columns}
    if client_tests:
        own = add_client_tests(data, rows, offsets, chosen)
        rows, offsets, holdout_offsets = own.rows, own.offsets, own.holdout_offsets
        data = with_client_tests(data, own)
    if holdout_fraction > 0:
        rows, holdout_offsets = hold_out(rows, offsets, fraction=holdout_fraction, seed=seed)
    if data.encoder is not None:
        sizes = np.diff(offsets)
        is_trained = positions_within(sizes) < np.repeat(holdout_offsets - offsets[:-1], sizes)
        data, shared = _encode_tables(data, shared, rows[is_trained])
    return FederatedDataset(
        train=data.train,
        rows=rows,
        offsets=offsets,
        holdout_offsets=holdout_offsets,
        test=data.test,
        public=shared and dataclasses.replace(shared, scaling=data.train.scaling),
        class_names=data.class_names,
        client_columns=columns,
        notes=data.notes,
        encode=data.encode,
    )


def _refuse_copies(**options: Any) -> None:
    """Refuse what would copy examples that stay in files."""
    for name, value in options.items():
        if value and not isinstance(value, Source):
            raise ConfigError(
                f"data.{name} is {value}, which copies examples that may be larger than memory; "
                "save test_inputs.npy and test_targets.npy, or use data.holdout_fraction"
            )


_KEYS = {"data.test": "data.test_fraction", "data.public": "data.public"}
"""The keys of the fractions, by what is drawn."""


def _check_shares(shares: Mapping[str, float], *, client_tests: bool) -> None:
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ConfigError(f"data.{name} is {share}; it must be at least 0 and below 1")
    if client_tests and shares["holdout_fraction"] > 0:
        raise ConfigError(
            f"data.holdout_fraction is {shares['holdout_fraction']}, but data.client_tests is "
            "true; set one of them"
        )


def _by_client(data: SourceData) -> Partition:
    if "client" in data.columns:
        return Natural()
    raise DataError(
        "data.partition is missing, and the source has no column 'client' to use instead; "
        "add a partition, such as iid with a number of clients"
    )


def _client_column(columns: Mapping[str, Array], name: str, rows: Array, offsets: Array) -> Array:
    """Return the column's value for each client.

    Raises:
        DataError: if there is no such column, or a client's examples differ in it.
    """
    if name not in columns:
        hint = did_you_mean(name, columns) if columns else "It has none besides inputs and targets"
        raise DataError(f"the source has no column {name!r} for cluster.groups. {hint}")
    values = columns[name][rows]
    of_client = values[offsets[:-1]]
    differs = values != np.repeat(of_client, np.diff(offsets))
    if differs.any():
        row = int(differs.argmax())
        client = int(np.searchsorted(offsets, row, side="right")) - 1
        raise DataError(
            f"column {name!r} is {of_client[client]!s} and {values[row]!s} for examples of client "
            f"{client}; cluster.groups need one that is the same for all of a client's examples"
        )
    return of_client


def _encode_tables(
    data: SourceData, public: Examples | None, rows: Array
) -> tuple[SourceData, Examples | None]:
    """Return the data and the public examples with a model's inputs.

    Args:
        data: with an encoder.
        public: of the same columns.
        rows: what clients train on, to which the encoder is fitted.
    """
    assert data.encoder is not None, "there are columns to encode"
    fitted = data.encoder.fit(select_rows(data.train, rows).inputs)
    encoded = dataclasses.replace(
        data,
        train=_encoded(data.train, fitted, what="training"),
        test=data.test and _encoded(data.test, fitted, what="test"),
    )
    return encoded, public and _encoded(public, fitted, what="public")


def _encoded(examples: Examples, fitted: FittedTable, *, what: str) -> Examples:
    """Return examples with a model's inputs.

    Raises:
        DataError: if a number is too large.
    """
    encoded = dataclasses.replace(examples, inputs=fitted.apply(examples.inputs))
    check_examples(encoded, what=what)
    return encoded


# -- scaling -------------------------------------------------------------------------------


def _scaled(data: SourceData, asked: Scaling | None) -> SourceData:
    if data.encoder is not None and asked is not None:
        raise ConfigError(
            "data.divide_by and data.normalize do not go with the encodings of a table; set "
            "data.numbers: standardize"
        )
    scaling = _joined(data.train.scaling, asked)
    if scaling is None:
        return data
    if any(isinstance(values, Ragged) for values in arrays_of(data.train.inputs)):
        raise ConfigError("data.divide_by and data.normalize are for numbers; tokens have none")
    _check_scaling(scaling, [array.shape[1:] for array in arrays_of(data.train.inputs)])
    return dataclasses.replace(
        data,
        train=dataclasses.replace(data.train, scaling=scaling),
        test=data.test and dataclasses.replace(data.test, scaling=scaling),
    )


def _joined(own: Scaling | None, asked: Scaling | None) -> Scaling | None:
    """Return a source's scaling of its inputs followed by the scenario's.

    Raises:
        ConfigError: if both divide, or both normalise.
    """
    if own is None or asked is None:
        return own or asked
    if asked.divide_by != 1 and own.divide_by != 1:
        raise ConfigError(
            f"data.divide_by is {asked.divide_by:g}, but the source's inputs are divided by "
            f"{own.divide_by:g} already; leave it out"
        )
    if asked.mean and own.mean:
        raise ConfigError(
            "data.normalize is given, but the source normalises already; leave it out"
        )
    return Scaling(
        divide_by=own.divide_by * asked.divide_by,
        mean=own.mean or asked.mean,
        std=own.std or asked.std,
    )


def _check_scaling(scaling: Scaling, axes: Sequence[tuple[int, ...]]) -> None:
    """Check that there is a mean and a deviation for each channel, or one for all.

    Args:
        scaling: of the inputs.
        axes: each input's, without the example's.

    Raises:
        ConfigError: for another number of them, or several inputs.
    """
    given = {"mean": scaling.mean, "std": scaling.std}
    if len(axes) > 1 and any(given.values()):
        raise ConfigError(
            f"data.normalize goes with one input, and there are {len(axes)}; normalise them in "
            "the source"
        )
    channels = axes[0][0] if axes[0] else 1
    for name, numbers in given.items():
        if len(numbers) not in (0, 1, channels):
            raise ConfigError(
                f"data.normalize.{name} has {len(numbers)} numbers, but inputs of shape "
                f"{list(axes[0])} have {channels} channels; give one for each, or one for all"
            )


# -- examples for evaluation ---------------------------------------------------------------


def take_test_split(data: SourceData, *, fraction: float, seed: int) -> SourceData:
    """Move a random part of the training examples to the test split.

    Raises:
        ConfigError: if the source has its own test split, or the part would be empty.
    """
    if data.test is not None:
        raise ConfigError(
            f"data.test_fraction is {fraction}, but the source has its own test split; "
            "set it to 0, or remove the source's test split"
        )
    data, test = _take_fraction(data, fraction=fraction, seed=seed, key="data.test")
    return dataclasses.replace(data, test=test)


def _take_public(
    data: SourceData, public: float | Source | None, *, seed: int
) -> tuple[SourceData, Examples | None]:
    """Return the data without the public examples, and those."""
    if not public:
        return data, None
    if isinstance(public, Source):
        other = public.load(seed=seed)
        check_source_data(other)
        check_alike(data.train, other.train, what="public")
        return data, other.train
    return _take_fraction(data, fraction=public, seed=seed, key="data.public")


def _take_fraction(
    data: SourceData, *, fraction: float, seed: int, key: str
) -> tuple[SourceData, Examples]:
    """Return the data without a random part of the training examples, and that part."""
    is_taken = np.zeros(len(data.train), bool)
    is_taken[draw_rows(data.train.targets, fraction=fraction, seed=seed, key=key)] = True
    kept = np.flatnonzero(~is_taken)
    rest = dataclasses.replace(
        data,
        train=select_rows(data.train, kept),
        columns={name: column[kept] for name, column in data.columns.items()},
    )
    return rest, select_rows(data.train, np.flatnonzero(is_taken))


def draw_rows(targets: Values, *, fraction: float, seed: int, key: str) -> Array:
    """Draw the rows of a part of the examples, stratified where targets are class ids.

    Each class gives its share, rounded so that the whole has ``round(fraction * N)`` rows, and
    keeps at least one row for training.

    Raises:
        ConfigError: if no row would be drawn.
    """
    shuffled = numpy_generator(seed, key).permutation(len(targets))
    is_class = targets.ndim == 1 and targets.dtype.kind in "biu"
    strata = np.asarray(targets)[shuffled] if is_class else np.zeros(len(targets), np.int64)
    codes, counts = np.unique(strata, return_inverse=True, return_counts=True)[1:]
    wanted = _shares(counts, fraction=fraction)
    if not wanted.any():
        raise ConfigError(
            f"{_KEYS[key]} is {fraction}, which leaves no {key.removeprefix('data.')} example of "
            f"{len(targets)}; raise it"
        )
    by_class = np.argsort(codes, kind="stable")
    rows: Array = shuffled[by_class[positions_within(counts) < np.repeat(wanted, counts)]]
    return rows


def hold_out(rows: Array, offsets: Array, *, fraction: float, seed: int) -> tuple[Array, Array]:
    """Shuffle each client's rows and keep the last of them for its own evaluation.

    Args:
        rows: the clients' rows, client after client.
        offsets: (C + 1,), where each client's rows begin.
        fraction: of n rows, ``floor(fraction * n)`` are kept, and at most n - 1.
        seed: the run's.

    Returns:
        The rows shuffled within clients, and (C,) where each client's kept rows begin.
    """
    sizes = np.diff(offsets)
    keys = numpy_generator(seed, "data.holdout").random(len(rows))
    order = np.lexsort((keys, np.repeat(np.arange(len(sizes)), sizes)))
    # A hair on top: 0.29 * 100 is 28.999999999999996 as a float.
    kept = np.minimum(np.floor(sizes * fraction + 1e-9).astype(np.int64), sizes - 1)
    return rows[order], offsets[1:] - kept


def _shares(counts: Array, *, fraction: float) -> Array:
    """Split ``round(fraction * N)`` over the classes by largest remainder."""
    exact = counts * fraction
    shares = np.floor(exact + 1e-9).astype(np.int64)
    beyond = round(fraction * int(counts.sum())) - int(shares.sum())
    by_remainder = np.argsort(shares - exact, kind="stable")
    shares[by_remainder[: max(beyond, 0)]] += 1
    shares_below: Array = np.minimum(shares, counts - 1)
    return shares_below
