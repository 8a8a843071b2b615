"""Label skew and size skew, both drawn from Dirichlet distributions.

Shapes: N examples, C clients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Interval

from simfl.component import Count
from simfl.data.dataset import Array
from simfl.data.partition import (
    Partition,
    class_codes,
    fill_up,
    require_enough_examples,
    rows_by_owner,
)
from simfl.seeding import numpy_generator

Concentration = Annotated[float, Interval(gt=0, le=1e12)]


@dataclass(frozen=True)
class Dirichlet(Partition):
    """Each class is split over the clients in proportions drawn from Dirichlet(alpha).

    Small alpha: few clients hold most of a class; large alpha: all hold the same share. Sizes are
    skewed too. A share of p of n examples is p n examples on average, rounded at random. Clients
    left with fewer than ``min_examples`` get examples that others can spare, drawn at random.

    Source: Yurochkin et al., 2019, section 4, https://arxiv.org/abs/1905.12022 (there without a
    minimum); "distribution-based label imbalance" of Li et al., 2022, section 4.1,
    https://arxiv.org/abs/2102.02079 (there drawn again until the minimum is met).
    """

    name: ClassVar[str] = "dirichlet"

    clients: Count
    """How many clients there are."""
    alpha: Concentration
    """The concentration: 0.1 is strong skew, 100 is nearly none."""
    min_examples: Count = 1
    """How many examples each client holds at least."""

    def split(
        self,
        targets: Array,
        columns: dict[str, Array],
        *,
        seed: int,
    ) -> tuple[Array, Array]:
        """Split class after class."""
        require_enough_examples(len(targets), clients=self.clients, min_examples=self.min_examples)
        codes = class_codes(targets, partition=self.name)
        generator = numpy_generator(seed, "data.partition")
        shuffled = generator.permutation(len(targets))
        by_class = shuffled[np.argsort(codes[shuffled], kind="stable")]
        owners = np.empty(len(targets), np.int64)
        for rows in np.split(by_class, np.cumsum(np.bincount(codes))[:-1]):
            sizes = _sizes(len(rows), self.clients, alpha=self.alpha, generator=generator)
            owners[rows] = np.repeat(np.arange(self.clients), sizes)
        owners = fill_up(
            owners, clients=self.clients, min_examples=self.min_examples, generator=generator
        )
        return rows_by_owner(owners, clients=self.clients)


@dataclass(frozen=True)
class Quantity(Partition):
    """Clients hold different numbers of examples, of all classes alike.

    Sizes are drawn from Dirichlet(alpha) over the clients; which examples a client holds is random.
    Clients left with fewer than ``min_examples`` get examples that others can spare.

    Source: "quantity skew" of Li et al., 2022, section 4.3, https://arxiv.org/abs/2102.02079
    """

    name: ClassVar[str] = "quantity"

    clients: Count
    """How many clients there are."""
    alpha: Concentration
    """The concentration: 0.1 is strong skew, 100 is nearly none."""
    min_examples: Count = 1
    """How many examples each client holds at least."""

    def split(
        self,
        targets: Array,
        columns: dict[str, Array],
        *,
        seed: int,
    ) -> tuple[Array, Array]:
        """Draw the sizes, then deal the examples out."""
        require_enough_examples(len(targets), clients=self.clients, min_examples=self.min_examples)
        generator = numpy_generator(seed, "data.partition")
        sizes = _sizes(len(targets), self.clients, alpha=self.alpha, generator=generator)
        owners = np.empty(len(targets), np.int64)
        owners[generator.permutation(len(targets))] = np.repeat(np.arange(self.clients), sizes)
        owners = fill_up(
            owners, clients=self.clients, min_examples=self.min_examples, generator=generator
        )
        return rows_by_owner(owners, clients=self.clients)


def _sizes(examples: int, clients: int, *, alpha: float, generator: np.random.Generator) -> Array:
    """Draw shares from Dirichlet(alpha) and round them to sizes that add up: (C,) int64."""
    ends_C = np.cumsum(generator.dirichlet(np.full(clients, alpha)))
    # One random offset rounds all sizes: each is right on average, and they add up.
    ends_C = np.floor(ends_C / ends_C[-1] * examples + generator.random())
    ends_C = np.minimum(ends_C.astype(np.int64), examples)
    return np.diff(ends_C, prepend=0)
