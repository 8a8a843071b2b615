"""From a source and a partition to the data set of a federation."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np

from simfl.data.dataset import Array, FederatedDataset, arrays_of
from simfl.data.partition import Partition
from simfl.data.partitions.natural import Natural
from simfl.data.scaling import Scaling, check_scaling, join_scalings
from simfl.data.source import Source, SourceData
from simfl.data.splits import hold_out, take_test_split
from simfl.data.validation import check_source_data, check_split
from simfl.errors import ConfigError, DataError, did_you_mean


def build_dataset(
    source: Source,
    partition: Partition | None,
    *,
    seed: int,
    test_fraction: float = 0.0,
    holdout_fraction: float = 0.0,
    client_columns: Collection[str] = (),
    scaling: Scaling | None = None,
) -> FederatedDataset:
    """Load a source, split it over clients, and set apart what is evaluated on.

    Args:
        source: where the examples come from.
        partition: who holds which; None goes by the source's column "client".
        seed: the run's; the same seed gives the same data set.
        test_fraction: how much of the training examples becomes the test split, each class giving
            its share; 0 leaves the source's test split as it is.
        holdout_fraction: how much of its examples each client keeps for its own evaluation.
        client_columns: columns of the source that tell of clients, and not of examples.
        scaling: how inputs become what the model is given, on top of what the source says of that.

    Raises:
        ConfigError: for a fraction outside [0, 1), a test split on top of the source's own, or a
            partition or scaling that these examples don't allow.
        DataError: if the data can't be read or trained on.
    """
    _check_fraction("test_fraction", test_fraction)
    _check_fraction("holdout_fraction", holdout_fraction)
    data = _scaled(_load(source, test_fraction=test_fraction, seed=seed), scaling)
    chosen = partition if partition is not None else _by_client(data)
    split = chosen.split(data.train.targets, data.columns, seed=seed)
    rows, offsets = check_split(split, examples=len(data.train), partition=chosen)
    holdout_offsets = offsets[1:]
    if holdout_fraction > 0:
        rows, holdout_offsets = hold_out(rows, offsets, fraction=holdout_fraction, seed=seed)
    return FederatedDataset(
        train=data.train,
        rows=rows,
        offsets=offsets,
        holdout_offsets=holdout_offsets,
        test=data.test,
        class_names=data.class_names,
        client_columns={
            name: _client_column(data.columns, name, rows, offsets) for name in client_columns
        },
    )


def _client_column(columns: dict[str, Array], name: str, rows: Array, offsets: Array) -> Array:
    """Return the column's value for each client.

    Raises:
        DataError: if there is no such column, or a client's examples differ in it.
    """
    if name not in columns:
        hint = did_you_mean(name, columns) if columns else "It has none beside inputs and targets"
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


def _load(source: Source, *, test_fraction: float, seed: int) -> SourceData:
    data = source.load(seed=seed)
    check_source_data(data)
    if test_fraction > 0:
        return take_test_split(data, fraction=test_fraction, seed=seed)
    return data


def _scaled(data: SourceData, asked: Scaling | None) -> SourceData:
    scaling = join_scalings(data.train.scaling, asked)
    if scaling is None:
        return data
    check_scaling(scaling, [array.shape[1:] for array in arrays_of(data.train.inputs)])
    return dataclasses.replace(
        data,
        train=dataclasses.replace(data.train, scaling=scaling),
        test=data.test and dataclasses.replace(data.test, scaling=scaling),
    )


def _by_client(data: SourceData) -> Partition:
    if "client" in data.columns:
        return Natural()
    raise DataError(
        "data.partition is missing, and the source has no column 'client' to go by; "
        "add a partition, such as iid with a number of clients"
    )


def _check_fraction(name: str, fraction: float) -> None:
    if not 0 <= fraction < 1:
        raise ConfigError(f"data.{name} is {fraction}; it must be at least 0 and below 1")
