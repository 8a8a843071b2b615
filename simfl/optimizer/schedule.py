"""What a schedule is: a pure function from a position, a step or a round, to a rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal, NamedTuple, TypeAlias

from torch import Tensor

from simfl.component import Component
from simfl.errors import ConfigError
from simfl.optimizer.specs import build_component, component_config
from simfl.vector import Scalar


@dataclass(frozen=True)
class Schedule(Component, kind="schedule"):
    """A rate that depends on the step or the round, and on nothing else.

    It has no state: what it gives follows from the counts of its Optimizer, so it is right from
    the first step and after a restore. To write one, override ``value``.
    """

    unit: Literal["round", "step"] = field(default="round", kw_only=True)
    """What a position counts: the run's rounds, or the steps this optimizer has taken in all."""

    def value(self, position: int) -> float:
        """Return the rate.

        Args:
            position: 0 in the first round, or for the first step; then 1, 2, ...
        """
        raise NotImplementedError(f"{type(self).__name__} has no value()")


Rate: TypeAlias = "float | Schedule"
"""A learning rate or a weight decay."""


class Rates(NamedTuple):
    """The rates of one step: numbers, or for a stack tensors of shape [C]."""

    lrate: Scalar
    w_decay: Scalar

    @property
    def decays(self) -> bool:
        """Whether there is a weight decay."""
        return isinstance(self.w_decay, Tensor) or self.w_decay != 0


def build_rate(spec: Any, *, place: str) -> Rate:
    """Build a rate from a number or, as ``build_component`` does, a schedule.

    Raises:
        ConfigError: for a number that is negative or not finite, or a spec of another form.
        KeyError: for an unknown name or field.
    """
    if isinstance(spec, bool) or not isinstance(spec, Real):
        return build_component(Schedule, spec, place=place)
    rate = float(spec)
    if not (math.isfinite(rate) and rate >= 0):
        raise ConfigError(f"{place} is {rate}; give a finite number of at least 0, or a schedule")
    return rate


def rate_at(rate: Rate, *, round: int, num_steps: int) -> float:
    """Return the rate of the next step.

    Args:
        rate: a number or a schedule.
        round: which round this is, from 1; 0 if none has been started, which is as the first.
        num_steps: steps taken before, in all rounds.
    """
    if not isinstance(rate, Schedule):
        return rate
    return rate.value(num_steps if rate.unit == "step" else max(round - 1, 0))


def goes_by_steps(*rates: Rate) -> bool:
    """Return whether a rate depends on how many steps there have been in all rounds."""
    return any(isinstance(rate, Schedule) and rate.unit == "step" for rate in rates)


def rate_config(rate: Rate) -> Any:
    """Return the number, or ``[name, {field: value}]``, as JSON takes it."""
    return component_config(rate) if isinstance(rate, Schedule) else rate
