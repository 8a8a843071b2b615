"""The partitions that come with simfl.

Shapes: N examples, C clients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Interval

from simfl.component import Count, Fraction
from simfl.data.dataset import Array
from simfl.data.partition import (
    Partition,
    SizedPartition,
    class_codes,
    fill_up,
    require_enough_examples,
    rows_by_owner,
    shuffled_by_group,
)
from simfl.errors import ConfigError, DataError, did_you_mean
from simfl.seeding import numpy_generator

Concentration = Annotated[float, Interval(gt=0, le=1e12)]


@dataclass(frozen=True)
class IID(SizedPartition):
    """Each client holds a random sample of the same size, give or take one example.

    Source: McMahan et al., 2017, section 3, "IID", https://arxiv.org/abs/1602.05629
    """

    name: ClassVar[str] = "iid"

    def split(self, targets: Array, columns: dict[str, Array], *, seed: int) -> tuple[Array, Array]:
        """Cut a random permutation into equal parts."""
        require_enough_examples(len(targets), clients=self.clients)
        rows = numpy_generator(seed, "data.partition").permutation(len(targets))
        return rows, _even_offsets(len(targets), self.clients)


@dataclass(frozen=True)
class _Skewed(SizedPartition):
    """A partition whose proportions are drawn from Dirichlet(alpha)."""

    alpha: Concentration
    """The concentration: 0.1 is strong skew, 100 is nearly none."""
    min_examples: Count = 1
    """The minimum number of examples of a client."""

    def split(self, targets: Array, columns: dict[str, Array], *, seed: int) -> tuple[Array, Array]:
        """Draw each row's client, then move rows to clients below the minimum."""
        clients, min_examples = self.clients, self.min_examples
        require_enough_examples(len(targets), clients=clients, min_examples=min_examples)
        generator = numpy_generator(seed, "data.partition")
        owners = fill_up(
            self._owners(targets, generator),
            clients=clients,
            min_examples=min_examples,
            generator=generator,
        )
        return rows_by_owner(owners, clients=clients)

    def _owners(self, targets: Array, generator: np.random.Generator) -> Array:
        """Return the client of each row: (N,) int64."""
        raise NotImplementedError

    def _sizes(self, examples: int, generator: np.random.Generator) -> Array:
        """Draw shares from Dirichlet(alpha) and round them to sizes that add up: (C,) int64."""
        ends_C = np.cumsum(generator.dirichlet(np.full(self.clients, self.alpha)))
        # One random offset rounds all sizes: each is right on average, and they add up.
        ends_C = np.floor(ends_C / ends_C[-1] * examples + generator.random())
        ends_C = np.minimum(ends_C.astype(np.int64), examples)
        return np.diff(ends_C, prepend=0)


@dataclass(frozen=True)
class Dirichlet(_Skewed):
    """Each class is split over the clients in proportions drawn from Dirichlet(alpha).

    Small alpha: few clients hold most of a class; large alpha: all hold the same share. Sizes are
    skewed, too. A share of p of n examples is p n examples on average, rounded at random. Clients
    left with fewer than ``min_examples`` get examples that others can spare, drawn at random.

    Source: Yurochkin et al., 2019, section 4, https://arxiv.org/abs/1905.12022 (there without a
    minimum); "distribution-based label imbalance" of Li et al., 2022, section 4.1,
    https://arxiv.org/abs/2102.02079 (there drawn again until the minimum is met).
    """

    name: ClassVar[str] = "dirichlet"

    def _owners(self, targets: Array, generator: np.random.Generator) -> Array:
        codes = class_codes(targets, partition=self.name)
        by_class = shuffled_by_group(codes, generator)
        owners = np.empty(len(targets), np.int64)
        for rows in np.split(by_class, np.cumsum(np.bincount(codes))[:-1]):
            sizes = self._sizes(len(rows), generator)
            owners[rows] = np.repeat(np.arange(self.clients), sizes)
        return owners


@dataclass(frozen=True)
class Quantity(_Skewed):
    """Clients hold different numbers of examples, of all classes alike.

    Sizes are drawn from Dirichlet(alpha) over the clients; which examples a client holds is random.
    Clients left with fewer than ``min_examples`` get examples that others can spare.

    Source: "quantity skew" of Li et al., 2022, section 4.3, https://arxiv.org/abs/2102.02079
    """

    name: ClassVar[str] = "quantity"

    def _owners(self, targets: Array, generator: np.random.Generator) -> Array:
        sizes = self._sizes(len(targets), generator)
        owners = np.empty(len(targets), np.int64)
        owners[generator.permutation(len(targets))] = np.repeat(np.arange(self.clients), sizes)
        return owners


@dataclass(frozen=True)
class Shards(SizedPartition):
    """Sort by class, cut into shards of the same size, give each client some shards at random.

    Shard sizes differ by one example at most. A shard holds one class, or two and more where a
    class ends within it.

    Source: McMahan et al., 2017, section 3, "non-IID", https://arxiv.org/abs/1602.05629
    """

    name: ClassVar[str] = "shards"

    shards_per_client: Count = 2
    """The number of shards of each client."""

    def split(self, targets: Array, columns: dict[str, Array], *, seed: int) -> tuple[Array, Array]:
        """Cut the shards and assign them to clients at random."""
        codes = class_codes(targets, partition=self.name)
        num_shards = self._num_shards(len(targets))
        generator = numpy_generator(seed, "data.partition")
        by_class = shuffled_by_group(codes, generator)
        owner_of_shard = generator.permutation(num_shards) // self.shards_per_client
        sizes = np.diff(_even_offsets(len(targets), num_shards))
        owners = np.empty(len(targets), np.int64)
        owners[by_class] = np.repeat(owner_of_shard, sizes)
        return rows_by_owner(owners, clients=self.clients)

    def _num_shards(self, examples: int) -> int:
        require_enough_examples(examples, clients=self.clients)
        num_shards = self.clients * self.shards_per_client
        if num_shards > examples:
            raise ConfigError(
                f"data.partition.shards_per_client is {self.shards_per_client}, which makes "
                f"{num_shards} shards for {self.clients} clients, but there are {examples} "
                "training examples; lower it or data.partition.clients"
            )
        return num_shards


@dataclass(frozen=True)
class Similar(SizedPartition):
    """A share of each client's examples is random, and the others are dealt out sorted by class.

    With a similarity of 0, clients hold one class, or two and more where a class ends; with 1, all
    are alike. Clients are numbered by their classes. Sizes differ by one example at most.

    Source: Karimireddy et al., 2020, section 7, "s % similarity", https://arxiv.org/abs/1910.06378
    """

    name: ClassVar[str] = "similar"

    similarity: Fraction
    """The share of all examples that are dealt out at random."""

    def split(self, targets: Array, columns: dict[str, Array], *, seed: int) -> tuple[Array, Array]:
        """Deal out a random sample, and then the rest, sorted by class."""
        require_enough_examples(len(targets), clients=self.clients)
        codes = class_codes(targets, partition=self.name)
        rows = numpy_generator(seed, "data.partition").permutation(len(targets))
        alike = round(self.similarity * len(rows))
        rest = rows[alike:]
        rest = rest[np.argsort(codes[rest], kind="stable")]
        alike_C = _even_sizes(alike, self.clients)
        sizes_C = _even_sizes(len(rows), self.clients)
        ids = np.arange(self.clients)
        owners = np.empty(len(rows), np.int64)
        owners[rows[:alike]] = np.repeat(ids, alike_C)
        owners[rest] = np.repeat(ids, sizes_C - alike_C)
        return rows_by_owner(owners, clients=self.clients)


@dataclass(frozen=True)
class Natural(Partition):
    """Each value of a column is a client; clients are numbered in the sorted order of the values.

    Rows keep the order they have in the source.
    """

    name: ClassVar[str] = "natural"

    column: str = "client"
    """The column with each example's client."""

    def split(self, targets: Array, columns: dict[str, Array], *, seed: int) -> tuple[Array, Array]:
        """Group the rows by the column's values."""
        if self.column not in columns:
            hint = did_you_mean(self.column, columns) or "The source has no columns."
            raise DataError(f"data.partition.column: no column named {self.column!r}. {hint}")
        ids = columns[self.column]
        if ids.dtype.kind == "f" and np.isnan(ids).any():
            row = int(np.isnan(ids).argmax())
            raise DataError(f"column {self.column!r} is NaN at row {row}; every row needs a client")
        values, owners = np.unique(ids, return_inverse=True)
        return rows_by_owner(owners, clients=len(values))


def _even_offsets(examples: int, parts: int) -> Array:
    """Return where parts of equal size, give or take one example, begin and end: (parts + 1,)."""
    return np.arange(parts + 1, dtype=np.int64) * examples // parts


def _even_sizes(examples: int, parts: int) -> Array:
    """Return sizes that add up, the larger ones first: (parts,). More examples, no smaller size."""
    return examples // parts + (np.arange(parts) < examples % parts)
