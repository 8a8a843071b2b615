"""Work: distributions of how much clients do in a round, in epochs or in steps.

Shapes: C clients of a cohort.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, TypeAlias

import numpy as np
from annotated_types import MinLen

from simfl.component import Component, Count, Fraction, NonNegative, Positive
from simfl.errors import ConfigError
from simfl.seeding import derive_seed, derive_seeds, uniforms

Amounts: TypeAlias = "np.ndarray[Any, Any]"


@dataclass(frozen=True)
class Work(Component, kind="work"):
    """How much clients do in a round: a distribution of numbers of epochs, or of steps.

    To write one, override ``draw``.
    """

    fixed: bool = field(default=False, kw_only=True)
    """Whether a client draws once for the whole run, instead of anew in each round."""

    def draw(self, seeds_C: Amounts) -> Amounts:
        """Return how many epochs, or steps, each client of a cohort does.

        0 drops a client from the round: it does not train, and nothing of it is aggregated.

        Args:
            seeds_C: int64, each client's own of this round. ``simfl.seeding.uniforms`` makes
                numbers of them; other random numbers must not be used.
        """
        raise NotImplementedError(f"{type(self).__name__} has no draw()")


@dataclass(frozen=True, kw_only=True)
class UniformInt(Work):
    """Draw whole numbers with the same probability, bounds included."""

    name: ClassVar[str] = "uniform-int"

    low: Count = 1
    """The smallest."""
    high: Count
    """The largest."""

    def check(self) -> None:
        """Refuse an empty range."""
        if self.low > self.high:
            raise ConfigError(f"{self.name}: low is {self.low}, above high, {self.high}; swap them")

    def draw(self, seeds_C: Amounts) -> Amounts:
        """Return whole numbers from ``low`` to ``high``."""
        return _whole_numbers(uniforms(seeds_C, 0), self.low, self.high)


@dataclass(frozen=True)
class Choice(Work):
    """Draw one of some values, such as those of a few classes of devices."""

    name: ClassVar[str] = "choice"

    values: Annotated[tuple[NonNegative, ...], MinLen(1)]
    """What is drawn from. 0: the client is dropped from the round."""
    probabilities: tuple[NonNegative, ...] | None = None
    """The probability of each value; they add up to 1. null: the same for all."""

    def check(self) -> None:
        """Refuse values that are not finite or all 0, and probabilities that do not fit them."""
        if not all(map(math.isfinite, self.values)) or not any(self.values):
            raise ConfigError(
                f"{self.name}: values are {list(self.values)}; give finite numbers, some above 0"
            )
        if self.probabilities is None:
            return
        count, total = len(self.probabilities), math.fsum(self.probabilities)
        if count != len(self.values) or not math.isclose(total, 1.0, rel_tol=1e-6):
            raise ConfigError(
                f"{self.name}: probabilities are {count} numbers that add up to {total:g}; "
                f"give {len(self.values)}, one for each value, that add up to 1"
            )

    def draw(self, seeds_C: Amounts) -> Amounts:
        """Return a value for each client."""
        count = len(self.values)
        shares = [1 / count] * count if self.probabilities is None else self.probabilities
        ends = np.cumsum(shares)[:-1]
        index_C = np.searchsorted(ends, uniforms(seeds_C, 0), side="right")
        amounts_C: Amounts = np.array(self.values, dtype=np.float64)[index_C]
        return amounts_C


@dataclass(frozen=True)
class Stragglers(Work):
    """Let a share of each round's clients do less than the others, or nothing with ``drop``.

    Of K clients, ``round(K * (1 - share))`` do ``full`` epochs, as in the authors' code
    (https://github.com/litian96/FedProx). The rest, drawn uniformly, are stragglers: each does a
    whole number of epochs, drawn uniformly from ``low`` to ``high``. With ``drop: true`` stragglers
    are dropped from the round, which is the paper's FedAvg; the same clients are stragglers then.
    With ``fixed: true`` clients are as slow in each round, and the slowest of a round are its
    stragglers.

    Source: Li et al., 2020, section 5.2, https://arxiv.org/abs/1812.06127
    """

    name: ClassVar[str] = "stragglers"

    share: Fraction
    """The share of a round's clients that are stragglers."""
    full: Positive | None = None
    """What the others do. null: ``high``."""
    low: Count = 1
    """The least that a straggler does."""
    high: Count | None = None
    """The most that a straggler does. null: ``full - 1``, as in the paper's code."""
    drop: bool = False
    """Whether stragglers are dropped from the round instead."""

    def check(self) -> None:
        """Refuse what leaves nothing to draw from."""
        if self.full is None and self.high is None:
            raise ConfigError(f"{self.name}: full and high are null; give full, such as 20")
        if not self.drop and self.low > self._highest:
            raise ConfigError(
                f"{self.name}: low is {self.low}, above the most that a straggler does, "
                f"{self._highest}; lower it, raise full or give high"
            )

    @property
    def _highest(self) -> int:
        return self.high if self.high is not None else math.ceil(self.full or 0) - 1

    def draw(self, seeds_C: Amounts) -> Amounts:
        """Return ``full`` for most clients, and less for the stragglers."""
        size = len(seeds_C)
        slow = np.argsort(derive_seeds(seeds_C, np.zeros(size, np.int64)), kind="stable")
        slow = slow[round(size * (1 - self.share)) :]
        full = self.full if self.full is not None else self._highest
        amounts_C = np.full(size, float(full))
        if self.drop:
            amounts_C[slow] = 0.0
        else:
            amounts_C[slow] = _whole_numbers(uniforms(seeds_C[slow], 1), self.low, self._highest)
        return amounts_C


def draw_amounts(work: Work, clients: Sequence[int] | Amounts, *, seed: int, round: int) -> Amounts:
    """Return how many epochs, or steps, each client of a cohort does: [C] float64.

    What a client draws depends on the run's seed, the round and its id, and not on their order.

    Args:
        work: the distribution.
        clients: [C] the ids of the whole cohort.
        seed: the run's.
        round: which round, from 1.

    Raises:
        ConfigError: unless the distribution returns a finite number of at least 0 for each.
    """
    base = derive_seed(seed, "work", round=0 if work.fixed else round)
    ids = np.asarray(clients, dtype=np.int64)
    drawn = np.asarray(work.draw(derive_seeds(np.broadcast_to(base, len(ids)), ids)))
    wanted = f"{len(ids)} finite numbers of at least 0, one for each client"
    where = f"work {work.name!r} returned"
    if drawn.shape != ids.shape or drawn.dtype.kind not in "iuf":
        raise ConfigError(f"{where} {drawn.dtype} of shape {list(drawn.shape)}; return {wanted}")
    if len(wrong := drawn[~(np.isfinite(drawn) & (drawn >= 0))]):
        raise ConfigError(f"{where} {wrong[0]:g}; return {wanted}")
    return drawn.astype(np.float64)


def _whole_numbers(uniforms_C: Amounts, low: int, high: int) -> Amounts:
    numbers_C: Amounts = low + np.floor(uniforms_C * (high - low + 1))
    return numbers_C
