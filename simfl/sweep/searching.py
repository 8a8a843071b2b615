"""Searchers: Ray Tune's, which propose values from the results so far. Needs simfl[tune]."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from ray import tune
from ray.tune.search import create_searcher

from simfl.component import KIND
from simfl.errors import ConfigError, InputError, did_you_mean
from simfl.report.wording import mean_of
from simfl.scenario.space import Values
from simfl.scenario.sweeps import SEED, SweepPlan
from simfl.sweep.ledger import FINISHED, Past
from simfl.sweep.results import Goal

# The packages that each searcher needs, and that Ray Tune does not install.
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


class Suggestions:
    """Asks the searcher that a sweep names for values, and tells it their results.

    With ``sweep.seeds``, as many trials in a row have the values of one proposal, and the searcher
    gets the mean over them when all have ended.

    Args:
        plan: what is tried, and the searcher.
        goal: what to maximise or minimise.

    Raises:
        InputError: if the searcher does not take what the sweep tries.
    """

    def __init__(self, plan: SweepPlan, goal: Goal) -> None:
        kind, arguments = _chosen(plan)
        self._metric = goal.metric
        self._seeds = plan.seeds
        self._told: dict[int, float | None] = {}
        self._proposed: dict[int, dict[str, Any]] = {}
        self._searcher = make_searcher(kind, arguments, seed=plan.section.seed)
        tried = {k: v for k, v in plan.space.items() if not (plan.seeds and k == SEED)}
        self._choices = {k: v.values for k, v in tried.items() if v.kind == "choice"}
        space = {key: _domain(values) for key, values in tried.items()}
        try:
            is_set = self._searcher.set_search_properties(goal.metric, goal.mode, space)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise InputError(f"sweep.searcher {kind!r} cannot take sweep.over: {error}") from error
        if not is_set:
            raise InputError(
                f"sweep.searcher {kind!r} takes no values from sweep.over; choose another"
            )

    def suggest(self, number: int) -> dict[str, Any] | None:
        """Return a trial's values by key; None if the searcher needs more results first.

        Trials are asked for in the order of their numbers.
        """
        proposal, place = divmod(number, max(1, len(self._seeds)))
        if place == 0:
            found = self._searcher.suggest(str(proposal))
            if not isinstance(found, dict):
                return None
            self._proposed[proposal] = {
                # A choice is an index, since values may be lists, which searchers do not know.
                key: self._choices[key][int(value)] if key in self._choices else _plain(value)
                for key, value in found.items()
            }
        own = {SEED: self._seeds[place]} if self._seeds else {}
        return {**self._proposed[proposal], **own}

    def recall(self, proposed: Mapping[int, Mapping[str, Any]]) -> None:
        """Repeat earlier proposals with their remaining seeds, whatever the searcher says now."""
        for number, values in proposed.items():
            own = {k: v for k, v in values.items() if not (self._seeds and k == SEED)}
            self._proposed[number // max(1, len(self._seeds))] = own

    def tell(self, number: int, value: float | None) -> None:
        """Note a trial's result, and tell the searcher its proposal's; None if the trial failed.

        A proposal fails if any of its trials does. A second attempt's result is ignored, since
        searchers take one result per proposal.
        """
        if number in self._told:
            return
        self._told[number] = value
        repeats = max(1, len(self._seeds))
        proposal = number // repeats
        trials = range(proposal * repeats, (proposal + 1) * repeats)
        if not all(trial in self._told for trial in trials):
            return
        values = [v for trial in trials if (v := self._told[trial]) is not None]
        mean = mean_of(values) if len(values) == repeats else None
        result = None if mean is None else {self._metric: mean}
        self._searcher.on_trial_complete(str(proposal), result=result, error=mean is None)


def require_searcher(plan: SweepPlan) -> None:
    """Check that the searcher that a sweep names, if any, exists, is installed, and its arguments.

    Raises:
        InputError: if not.
    """
    if plan.section.searcher is not None:
        kind, arguments = _chosen(plan)
        make_searcher(kind, arguments, seed=0)


def make_suggestions(
    plan: SweepPlan, goal: Goal, past: Past, *, notify: Callable[[str], None]
) -> Suggestions | None:
    """Return the searcher in the state in which the sweep was interrupted.

    Args:
        plan: names it; without one, None is returned.
        goal: what it searches for.
        past: what it proposed and was told before.
        notify: is called with a message if its state cannot be restored.
    """
    if plan.section.searcher is None:
        return None
    suggestions = Suggestions(plan, goal)
    _replay(suggestions, past, notify)
    suggestions.recall(past.proposed)
    return suggestions


def _chosen(plan: SweepPlan) -> tuple[str, dict[str, Any]]:
    """Return the searcher's name and arguments."""
    chosen = plan.section.searcher
    if not isinstance(chosen, dict):
        return str(chosen), {}
    return chosen[KIND], {key: value for key, value in chosen.items() if key != KIND}


def _replay(suggestions: Suggestions, past: Past, notify: Callable[[str], None]) -> None:
    """Ask the searcher for the same trials as before, and tell it the same results."""
    for event in past.searched:
        number = event["trial"]
        if event["event"] == "ended":
            suggestions.tell(number, event["value"] if event["state"] in FINISHED else None)
        elif suggestions.suggest(number) != event["values"]:
            notify(
                "the searcher proposes other values than before; it continues without the results "
                f"of trial {number} and of those after it"
            )
            return


def make_searcher(kind: str, arguments: Mapping[str, Any], *, seed: int) -> Any:
    """Return Ray Tune's searcher of that name.

    Raises:
        InputError: if there is none, it is not installed, or it does not take the arguments.
    """
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
    # Some print a message on the terminal at the start of every study.
    logging.getLogger(kind).setLevel(logging.WARNING)
    return searcher


def _check_arguments(kind: str, arguments: Mapping[str, Any], *, taken: Any) -> None:
    """Check that the searcher has these arguments: Ray Tune ignores unknown ones silently."""
    known = [name for name in taken if name not in _OURS]
    for name in arguments:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ConfigError(f"sweep.searcher: {kind!r} has no argument {name!r}. {hint}")


def _domain(values: Values) -> Any:
    if values.kind == "choice":
        return tune.choice(list(range(len(values.values))))
    low, high = values.values
    if values.kind == "integers":
        return tune.randint(low, high + 1)
    return tune.loguniform(low, high) if values.kind == "loguniform" else tune.uniform(low, high)


def _plain(value: Any) -> Any:
    """Return a number of numpy as Python's, and any other value as it is."""
    return value.item() if hasattr(value, "item") else value
