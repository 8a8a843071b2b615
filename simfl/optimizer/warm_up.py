"""The schedule that leads up to any other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from simfl.component import Count, NonNegative
from simfl.errors import ConfigError
from simfl.optimizer.schedule import Schedule, build_rate
from simfl.optimizer.schedules import Constant


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
    """A number, the name of a schedule, or its name and fields. It goes by the same unit."""
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


def _name_and_config(schedule: Schedule) -> tuple[str, dict[str, Any]]:
    return schedule.name, schedule.get_config()


def _with_unit(spec: Any, unit: str) -> Any:
    match spec:
        case str():
            return spec, {"unit": unit}
        case (name, dict(config)):
            return name, {"unit": unit, **config}
    return spec
