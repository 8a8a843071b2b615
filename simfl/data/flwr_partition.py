"""Any partitioner of flwr-datasets."""

from __future__ import annotations

import inspect
import io
import warnings
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from simfl.data.dataset import Array
from simfl.data.hub import without_bars
from simfl.data.partition import Partition
from simfl.errors import ConfigError, UnknownNameError, import_extra
from simfl.seeding import derive_seed, numpy_generator

_ROW = "__row__"
_ABSTRACT = ("Partitioner", "IdToSizeFncPartitioner")


@dataclass(frozen=True)
class FlwrPartition(Partition):
    """A partitioner of the package flwr-datasets, named as its class.

    It gets the class ids as a column "label", in addition to the source's other columns. If it has
    a parameter ``seed`` that ``arguments`` does not set, it gets one derived from the run's seed.
    Partitioners that split columns instead of rows ("Vertical...") are not supported. Each
    partition is loaded separately: for large populations, simfl's own partitions are faster.

    Source: https://flower.ai/docs/datasets/
    """

    name: ClassVar[str] = "flwr"

    partitioner: str
    """The class, such as "DirichletPartitioner"."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Its arguments, such as num_partitions, partition_by: label, alpha."""
    shuffle: bool = True
    """Whether examples are shuffled first, as in Flower: some partitioners cut them in order."""

    @property
    def num_clients(self) -> int | None:
        """The argument ``num_partitions``, if it is given."""
        clients = self.arguments.get("num_partitions")
        return clients if isinstance(clients, int) else None

    def split(self, targets: Array, columns: dict[str, Array], *, seed: int) -> tuple[Array, Array]:
        """Run the partitioner.

        Raises:
            MissingExtraError: if flwr-datasets is not installed.
            UnknownNameError: if it has no such partitioner.
            ConfigError: if the partitioner refuses its arguments, or these data with them.
        """
        flwr = import_extra("flwr_datasets.partitioner", what="the 'flwr' partition", extra="flwr")
        partitioner = self._build(flwr, seed=seed)
        try:
            # It prints its progress and warnings in several ways.
            with (
                without_bars(),
                redirect_stderr(io.StringIO()),
                warnings.catch_warnings(action="ignore"),
            ):
                parts = self._parts(partitioner, targets, columns, seed=seed)
        except Exception as error:
            raise ConfigError(f"data.partition: {self.partitioner}: {error}") from error
        return _joined(parts, partitioner=self.partitioner)

    def _parts(
        self, partitioner: Any, targets: Array, columns: dict[str, Array], *, seed: int
    ) -> list[Array]:
        partitioner.dataset = _as_dataset(targets, columns, order=self._order(targets, seed))
        return [
            np.asarray(partitioner.load_partition(index)[:][_ROW], np.int64)
            for index in range(partitioner.num_partitions)
        ]

    def _order(self, targets: Array, seed: int) -> Array:
        if not self.shuffle:
            return np.arange(len(targets))
        return numpy_generator(seed, "data.partition").permutation(len(targets))

    def _build(self, module: ModuleType, *, seed: int) -> Any:
        known = [
            name
            for name in module.__all__
            if name not in _ABSTRACT and not name.startswith("Vertical")
        ]
        if self.partitioner not in known:
            raise UnknownNameError("flwr partitioner", self.partitioner, known)
        cls = getattr(module, self.partitioner)
        parameters = inspect.signature(cls).parameters
        arguments = {
            name: np.array(value) if _wants_array(parameters.get(name), value) else value
            for name, value in self.arguments.items()
        }
        if "seed" in parameters:
            arguments.setdefault("seed", derive_seed(seed, "data.partition"))
        try:
            return cls(**arguments)
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"data.partition.arguments: {self.partitioner} cannot be built with "
                f"{self.arguments}: {error}"
            ) from error


def _wants_array(parameter: inspect.Parameter | None, value: object) -> bool:
    """Return whether a list, as read from YAML, must become an array."""
    kinds = "" if parameter is None else str(parameter.annotation)
    is_array = ("ndarray" in kinds or "NDArray" in kinds) and "list" not in kinds
    return is_array and isinstance(value, list | tuple)


def _as_dataset(targets: Array, columns: dict[str, Array], *, order: Array) -> Any:
    from datasets import Dataset

    label = {"label": targets} if targets.ndim == 1 else {}
    arrays = {name: array[order] for name, array in {**columns, **label}.items()}
    return Dataset.from_dict({**arrays, _ROW: order})


def _joined(parts: list[Array], *, partitioner: str) -> tuple[Array, Array]:
    sizes = np.array([len(part) for part in parts], np.int64)
    if empty := np.flatnonzero(sizes == 0).tolist():
        raise ConfigError(
            f"data.partition: {partitioner} left {len(empty)} of {len(parts)} clients without "
            f"examples, client {empty[0]} the first; change its arguments"
        )
    return np.concatenate(parts), np.concatenate([[0], np.cumsum(sizes)])
