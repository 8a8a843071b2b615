"""Schedules that are one formula; ``warm_up.py`` has the one around another.

In this file p is the position: 0 in the first round, or for the first step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from simfl.component import Count, Fraction, NonNegative
from simfl.errors import ConfigError
from simfl.optimizer.schedule import Schedule


@dataclass(frozen=True)
class Constant(Schedule):
    """Always the same rate."""

    name: ClassVar[str] = "constant"

    base: NonNegative
    """The rate."""

    def value(self, position: int) -> float:
        """Return base."""
        return self.base


@dataclass(frozen=True)
class Exponential(Schedule):
    """Multiply by a factor at each position: base · factor^p.

    >>> Exponential(base=0.8, factor=0.5).value(2)
    0.2
    """

    name: ClassVar[str] = "exponential"

    base: NonNegative
    """The first rate."""
    factor: Fraction
    """What each rate is of the one before."""

    def value(self, position: int) -> float:
        """Return base · factor^p."""
        return self.base * self.factor**position


@dataclass(frozen=True)
class InverseTime(Schedule):
    """Decay with one over time: base / (1 + decay · p).

    >>> InverseTime(base=1.0, decay=0.5).value(2)
    0.5
    """

    name: ClassVar[str] = "inverse-time"

    base: NonNegative
    """The first rate."""
    decay: NonNegative
    """How fast: after 1/decay positions the rate is half the first."""

    def value(self, position: int) -> float:
        """Return base / (1 + decay · p)."""
        return self.base / (1.0 + self.decay * position)


@dataclass(frozen=True)
class Linear(Schedule):
    """Go from one rate to another in a straight line, and stay there.

    >>> [Linear(base=1.0, end=0.5, length=2).value(p) for p in range(4)]
    [1.0, 0.75, 0.5, 0.5]
    """

    name: ClassVar[str] = "linear"

    base: NonNegative
    """The first rate."""
    length: Count
    """The position that has the last rate."""
    end: NonNegative = 0.0
    """The last rate."""

    def value(self, position: int) -> float:
        """Return base + (end - base) · p / length, up to end."""
        if position >= self.length:
            return self.end
        return self.base + (self.end - self.base) * position / self.length


@dataclass(frozen=True)
class Polynomial(Schedule):
    """Go from one rate to another with a power of what is left, and stay there.

    >>> [Polynomial(base=1.0, length=2, power=2.0).value(p) for p in range(4)]
    [1.0, 0.25, 0.0, 0.0]
    """

    name: ClassVar[str] = "polynomial"

    base: NonNegative
    """The first rate."""
    length: Count
    """The position that has the last rate."""
    end: NonNegative = 0.0
    """The last rate."""
    power: NonNegative = 2.0
    """The exponent; 1 is linear."""

    def value(self, position: int) -> float:
        """Return end + (base - end) · (1 - min(p / length, 1))^power."""
        if position >= self.length:
            return self.end
        left = 1.0 - position / self.length
        return self.end + (self.base - self.end) * math.pow(left, self.power)


@dataclass(frozen=True)
class Piecewise(Schedule):
    """Change the rate at given positions.

    >>> [Piecewise(values=(1.0, 0.1), boundaries=(2,)).value(p) for p in range(4)]
    [1.0, 1.0, 0.1, 0.1]
    """

    name: ClassVar[str] = "piecewise"

    values: tuple[NonNegative, ...]
    """The rates: one more than there are boundaries."""
    boundaries: tuple[Count, ...]
    """The positions that have the second rate first, the third first, and so on, rising."""

    def check(self) -> None:
        """Check that rates and boundaries fit together."""
        if len(self.values) != len(self.boundaries) + 1:
            raise ConfigError(
                f"{self.name}: {len(self.values)} values and {len(self.boundaries)} boundaries; "
                "give one value more than boundaries"
            )
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise ConfigError(f"{self.name}: boundaries {self.boundaries} do not rise")

    def value(self, position: int) -> float:
        """Return the rate of the piece that p is in."""
        return self.values[sum(boundary <= position for boundary in self.boundaries)]


@dataclass(frozen=True)
class Cosine(Schedule):
    """Go from one rate to another along half a cosine, and stay there.

    Source: Loshchilov and Hutter, 2017, equation 5 with one cycle,
    https://arxiv.org/abs/1608.03983
    """

    name: ClassVar[str] = "cosine"

    base: NonNegative
    """The first rate."""
    length: Count
    """The position that has the last rate."""
    end: NonNegative = 0.0
    """The last rate."""

    def value(self, position: int) -> float:
        """Return end + (base - end) · (1 + cos(π · min(p / length, 1))) / 2."""
        return _half_cosine(self.base, self.end, min(position / self.length, 1.0))


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """Go along half a cosine again and again, each cycle ``growth`` times as long as the last.

    Source: Loshchilov and Hutter, 2017, equation 5, https://arxiv.org/abs/1608.03983
    """

    name: ClassVar[str] = "cosine-restarts"

    base: NonNegative
    """The first rate of each cycle."""
    length: Count
    """How many positions the first cycle has."""
    end: NonNegative = 0.0
    """What the rate falls towards in each cycle."""
    growth: Count = 1
    """The length of each cycle in lengths of the one before."""

    def value(self, position: int) -> float:
        """Return the rate at the place of p in its cycle."""
        length = self.length
        if self.growth == 1:
            position %= length
        while position >= length:
            position -= length
            length *= self.growth
        return _half_cosine(self.base, self.end, position / length)


@dataclass(frozen=True)
class Triangular(Schedule):
    """Go up and down in straight lines, again and again.

    >>> [Triangular(low=0.0, high=1.0, length=2).value(p) for p in range(5)]
    [0.0, 0.5, 1.0, 0.5, 0.0]

    Source: Smith, 2017, https://arxiv.org/abs/1506.01186
    """

    name: ClassVar[str] = "triangular"

    low: NonNegative
    """The first rate, and the lowest."""
    high: NonNegative
    """The highest rate of the first cycle."""
    length: Count
    """How many positions it takes to go up; going down takes as many."""
    shrink: Fraction = 1.0
    """The height of each cycle, above ``low``, in heights of the one before."""

    def check(self) -> None:
        """Check that low is not above high."""
        if self.low > self.high:
            raise ConfigError(f"{self.name}: low is {self.low}, which is above high, {self.high}")

    def value(self, position: int) -> float:
        """Return low + (high - low) · height, height going from 0 to 1 and back."""
        cycle, place = divmod(position, 2 * self.length)
        height = 1.0 - abs(place / self.length - 1.0)
        return self.low + (self.high - self.low) * height * self.shrink**cycle


def _half_cosine(base: float, end: float, progress: float) -> float:
    return end + (base - end) * (1.0 + math.cos(math.pi * progress)) / 2.0
