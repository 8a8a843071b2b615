"""Suggestions: what a searcher of Ray Tune's would try next."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from simfl.errors import ConfigError, InputError, did_you_mean

# What each searcher needs, that Ray Tune does not install.
_PACKAGES: Final = {
    "ax": "ax-platform",
    "bayesopt": "bayesian-optimization",
    "bohb": "hpbandster ConfigSpace",
    "hebo": "HEBO",
    "hyperopt": "hyperopt",
    "nevergrad": "nevergrad",
    "optuna": "optuna",
    "zoopt": "zoopt",
}
_SEEDS: Final = ("seed", "random_state_seed", "random_state")
_OURS: Final = ("space", "metric", "mode")


def require_searcher(kind: str, arguments: Mapping[str, Any]) -> None:
    """See that there is such a searcher, that what it needs is installed, and its arguments.

    Raises:
        InputError: if not.
    """
    _create(kind, arguments, seed=0)


class Suggestions:
    """Asks a searcher for values, and tells it what they have brought.

    Args:
        kind: the searcher's name.
        arguments: of the searcher.
        space: what it may choose, by key: ``(uniform, (0, 1))`` and the like.
        metric: what is maximised or minimised.
        mode: ``max`` or ``min``.
        seed: of its own random draws.

    Raises:
        InputError: if there is no such searcher, or it does not take these arguments.
    """

    def __init__(
        self,
        kind: str,
        arguments: Mapping[str, Any],
        *,
        space: Mapping[str, tuple[str, Sequence[Any]]],
        metric: str,
        mode: str,
        seed: int,
    ) -> None:
        self._choices = {key: values for key, (draw, values) in space.items() if draw == "choice"}
        self._metric = metric
        self._told: set[int] = set()
        self._searcher = _create(kind, arguments, seed=seed)
        config = {key: _domain(draw, values) for key, (draw, values) in space.items()}
        try:
            is_set = self._searcher.set_search_properties(metric, mode, config)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise InputError(f"sweep.searcher {kind!r} cannot take sweep.over: {error}") from error
        if not is_set:
            raise InputError(
                f"sweep.searcher {kind!r} takes no values from sweep.over; choose another"
            )

    def suggest(self, number: int) -> dict[str, Any] | None:
        """Return a trial's values by key; None: not now, more results are needed first."""
        found = self._searcher.suggest(str(number))
        if not isinstance(found, dict):
            return None
        return {
            # Which of the values it is, since values may be lists, which searchers do not know.
            key: self._choices[key][int(value)] if key in self._choices else _plain(value)
            for key, value in found.items()
        }

    def tell(self, number: int, value: float | None) -> None:
        """Tell what a trial has brought; None: it failed.

        What it brings when it is tried again is not told, since searchers take one answer.
        """
        if number in self._told:
            return
        self._told.add(number)
        result = None if value is None else {self._metric: value}
        self._searcher.on_trial_complete(str(number), result=result, error=value is None)


def _create(kind: str, arguments: Mapping[str, Any], *, seed: int) -> Any:
    from ray.tune.search import create_searcher

    seeds = dict.fromkeys(_SEEDS, seed)
    try:
        searcher = create_searcher(kind, **{**seeds, **arguments})
    except (ImportError, AssertionError) as error:
        package = _PACKAGES.get(kind, kind)
        raise InputError(
            f"sweep.searcher {kind!r} needs a package that is not installed; "
            f"install it with: pip install {package}"
        ) from error
    except (ValueError, TypeError) as error:
        hint = did_you_mean(kind, _PACKAGES) if kind not in _PACKAGES else str(error)
        raise InputError(f"sweep.searcher is {kind!r}. {hint}") from error
    _check_arguments(kind, arguments, taken=inspect.signature(type(searcher)).parameters)
    # Some tell of every study that they begin, on the terminal.
    logging.getLogger(kind).setLevel(logging.WARNING)
    return searcher


def _check_arguments(kind: str, arguments: Mapping[str, Any], *, taken: Any) -> None:
    """See that none is left out silently, as Ray Tune does."""
    known = [name for name in taken if name not in _OURS]
    for name in arguments:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ConfigError(f"sweep.searcher: {kind!r} has no argument {name!r}. {hint}")


def _domain(draw: str, values: Sequence[Any]) -> Any:
    from ray import tune

    if draw == "choice":
        return tune.choice(list(range(len(values))))
    low, high = values
    if draw == "integers":
        return tune.randint(low, high + 1)
    return tune.loguniform(low, high) if draw == "loguniform" else tune.uniform(low, high)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
