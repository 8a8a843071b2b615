"""The schedules of simfl.

In this file p is the position: 0 in the first round, or for the first step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from simfl.component import Count, Fraction, NonNegative
from simfl.errors import ConfigError
from simfl.optimizer.schedule import Schedule, build_rate


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
class _Ramp(Schedule):
    """Goes from one rate to another, and stays there."""

    base: NonNegative
    """The first rate."""
    length: Count
    """The position that has the last rate."""
    end: NonNegative = 0.0
    """The last rate."""


@dataclass(frozen=True)
class Linear(_Ramp):
    """Go from one rate to another in a straight line, and stay there.

    >>> [Linear(base=1.0, end=0.5, length=2).value(p) for p in range(4)]
    [1.0, 0.75, 0.5, 0.5]
    """

    name: ClassVar[str] = "linear"

    def value(self, position: int) -> float:
        """Return base + (end - base) · p / length, up to end."""
        if position >= self.length:
            return self.end
        return self.base + (self.end - self.base) * position / self.length


@dataclass(frozen=True)
class Polynomial(_Ramp):
    """Go from one rate to another with a power of what is left, and stay there.

    >>> [Polynomial(base=1.0, length=2, power=2.0).value(p) for p in range(4)]
    [1.0, 0.25, 0.0, 0.0]
    """

    name: ClassVar[str] = "polynomial"
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
class Cosine(_Ramp):
    """Go from one rate to another along half a cosine, and stay there.

    Source: Loshchilov and Hutter, 2017, equation 5 with one cycle,
    https://arxiv.org/abs/1608.03983
    """

    name: ClassVar[str] = "cosine"

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


@dataclass(frozen=True)
class WarmUp(Schedule):
    """Rise in a straight line to the first rate of another schedule, then follow that.

    The other schedule begins, with its position 0, at position ``length`` of this one.

    Source: Goyal et al., 2017, section 2.2, https://arxiv.org/abs/1706.02677

    >>> [WarmUp(after=0.75, length=2).value(p) for p in range(4)]
    [0.25, 0.5, 0.75, 0.75]
    """

    name: ClassVar[str] = "warm-up"

    after: NonNegative | str | tuple[str, dict[str, Any]]
    """A number, the name of a schedule, or its name and fields. It counts in the same unit."""
    length: Count
    """How many positions come before the full rate: 1/(length + 1) of it, 2/(length + 1)..."""

    def __post_init__(self) -> None:
        """Check the fields; a schedule that is built already is taken, too."""
        if isinstance(self.after, Schedule):
            object.__setattr__(self, "after", _name_and_config(self.after))
        super().__post_init__()

    def check(self) -> None:
        """Build the other schedule, and write its config out in full."""
        after = build_rate(_with_unit(self.after, self.unit), place="after")
        if not isinstance(after, Schedule):
            return
        if after.unit != self.unit:
            raise ConfigError(
                f"{self.name}: unit is {self.unit!r}, but that of 'after' is {after.unit!r}; "
                "give both the same"
            )
        object.__setattr__(self, "after", _name_and_config(after))

    def value(self, position: int) -> float:
        """Return after(0) · (p + 1) / (length + 1), and then after(p - length)."""
        if position >= self.length:
            return self._schedule.value(position - self.length)
        return self._schedule.value(0) * (position + 1) / (self.length + 1)

    @cached_property
    def _schedule(self) -> Schedule:
        after = build_rate(self.after, place="after")
        return after if isinstance(after, Schedule) else Constant(after, unit=self.unit)


def _half_cosine(base: float, end: float, progress: float) -> float:
    return end + (base - end) * (1.0 + math.cos(math.pi * progress)) / 2.0


def _name_and_config(schedule: Schedule) -> tuple[str, dict[str, Any]]:
    return schedule.name, schedule.get_config()


def _with_unit(spec: Any, unit: str) -> Any:
    match spec:
        case str():
            return spec, {"unit": unit}
        case (name, dict(config)):
            return name, {"unit": unit, **config}
    return spec
