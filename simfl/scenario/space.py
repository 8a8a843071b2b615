"""The values that a sweep tries for a key: each of a list, or random draws."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeAlias

import numpy as np

from simfl.component import KIND
from simfl.errors import did_you_mean
from simfl.scenario.document import show
from simfl.scenario.reading import parse_value
from simfl.scenario.validators import fault

_RANGE: Final = re.compile(r"(-?\d+)\.\.(-?\d+)")
_MAX_RANGE: Final = 10_000


@dataclass(frozen=True)
class Each:
    """A list of values: one trial for each, in this order."""

    kind: ClassVar[str] = "choice"
    """The kind of parameter, for a searcher."""
    values: tuple[Any, ...]

    @property
    def extremes(self) -> tuple[Any, ...]:
        """The values to check, which show whether all are valid."""
        return self.values


@dataclass(frozen=True)
class Draw:
    """One random value per trial."""

    kind: str
    """``uniform``, ``loguniform``, ``integers`` or ``choice``."""
    values: tuple[Any, ...]
    """The choices, or the lowest and the highest value."""

    @property
    def extremes(self) -> tuple[Any, ...]:
        """The values to check, which show whether all are valid."""
        return self.values

    def draw(self, generator: np.random.Generator) -> Any:
        """Return a random value of a type that YAML has."""
        return _DRAWS[self.kind](generator, *self.values)


Values: TypeAlias = "Each | Draw"


def read_values(value: Any) -> Values:
    """Read the values of a key of ``sweep.over``.

    >>> read_values("0..2").values, read_values([0.1, 1]).values
    ((0, 1, 2), (0.1, 1))
    >>> read_values({"loguniform": [0.001, 1.0]}).kind
    'loguniform'

    Raises:
        PydanticCustomError: with a message for the user.
    """
    if isinstance(value, Mapping):
        return _draw(value)
    values = tuple(part for item in _listed(value) for part in _ranged(item))
    if not values:
        raise fault("is an empty list; give the values to try, such as [0.01, 0.1]")
    return Each(values)


def checked_values(value: Any) -> Any:
    """Return the value unchanged if ``read_values`` can read it."""
    read_values(value)
    return value


def checked_seeds(value: Any) -> Any:
    """Return the value unchanged if it is a list of different seeds, or a range of them."""
    values = None if value is None else read_values(value)
    if values is None:
        return value
    seeds = values.values
    is_list = isinstance(values, Each)
    if not is_list or any(not isinstance(s, int) or isinstance(s, bool) or s < 0 for s in seeds):
        raise fault(f"is {show(value)}; should be whole numbers from 0 on, such as 0..4")
    if len(set(seeds)) < len(seeds):
        raise fault(f"is {show(value)}, which has a seed twice; leave one out")
    return value


def checked_searcher(value: Any) -> Any:
    """Return the value unchanged if it names a searcher."""
    if isinstance(value, dict) and not isinstance(value.get(KIND), str):
        raise fault("should be the name of a searcher, or {kind: name, argument: value}")
    return value


def parse_values(text: str, *, origin: str) -> Any:
    """Read the text after ``--over KEY=``, for ``read_values``.

    >>> parse_values("0.01,0.1", origin="--over")
    [0.01, 0.1]
    >>> parse_values("{uniform: [0, 1]}", origin="--over")
    {'uniform': [0, 1]}

    Raises:
        ScenarioError: if it is not YAML.
    """
    values = parse_value(f"[{text}]", origin=origin)
    is_draw = len(values) == 1 and isinstance(values[0], dict) and set(values[0]) <= set(_DRAWS)
    return values[0] if is_draw else values


def _listed(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, str) and _RANGE.fullmatch(value):
        return [value]
    raise fault(
        f"is {show(value)}; should be a list of values, whole numbers as 0..4, "
        "or a draw such as {uniform: [0, 1]}"
    )


def _ranged(item: Any) -> tuple[Any, ...]:
    """Expand ``0..4``, both ends included."""
    match = _RANGE.fullmatch(item) if isinstance(item, str) else None
    if match is None:
        return (item,)
    low, high = map(int, match.groups())
    if low > high:
        raise fault(f"has the range {item}, which is empty; write {high}..{low}")
    if high - low >= _MAX_RANGE:
        raise fault(f"has the range {item} of {high - low + 1:,} values; {_MAX_RANGE:,} at most")
    return tuple(range(low, high + 1))


def _draw(value: Mapping[Any, Any]) -> Draw:
    if len(value) != 1:
        raise fault(f"is {show(value)}; should be one draw, such as {{uniform: [0, 1]}}")
    ((kind, values),) = value.items()
    if kind not in _DRAWS:
        hint = did_you_mean(str(kind), _DRAWS)
        raise fault(f"is {show(value)}, but there is no draw called {kind!r}. {hint}")
    if not isinstance(values, list | tuple) or not values:
        raise fault(f"is {show(value)}; {kind} should have a list of values")
    if kind != "choice":
        _check_bounds(kind, value, values)
    return Draw(kind, tuple(values))


def _check_bounds(kind: str, value: Any, values: Any) -> None:
    numbers = int if kind == "integers" else int | float
    are_numbers = all(isinstance(v, numbers) and not isinstance(v, bool) for v in values)
    if len(values) != 2 or not are_numbers or not all(math.isfinite(v) for v in values):
        what = "whole numbers" if kind == "integers" else "numbers"
        raise fault(f"is {show(value)}; {kind} should have two {what}: [lowest, highest]")
    if not values[0] < values[1]:
        raise fault(f"is {show(value)}; the lowest should come first, and below the highest")
    if kind == "loguniform" and values[0] <= 0:
        raise fault(f"is {show(value)}; with loguniform the lowest should be above 0")


def _uniform(generator: np.random.Generator, low: float, high: float) -> float:
    return float(generator.uniform(low, high))


def _loguniform(generator: np.random.Generator, low: float, high: float) -> float:
    # Clipped: exp(log(high)) may exceed high by rounding.
    value = math.exp(generator.uniform(math.log(low), math.log(high)))
    return min(max(value, low), high)


def _integers(generator: np.random.Generator, low: int, high: int) -> int:
    return int(generator.integers(low, high, endpoint=True))


def _choice(generator: np.random.Generator, *values: Any) -> Any:
    return values[int(generator.integers(len(values)))]


_DRAWS: Final[dict[str, Callable[..., Any]]] = {
    "uniform": _uniform,
    "loguniform": _loguniform,
    "integers": _integers,
    "choice": _choice,
}
