"""The searcher that a sweep names: whether it can be had, and where it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simfl.cluster.searching import Suggestions, require_searcher
from simfl.cluster.tuning import require_tune
from simfl.component import KIND
from simfl.scenario.space import Each
from simfl.scenario.sweeps import SweepPlan
from simfl.sweep.ledger import FINISHED, Past
from simfl.sweep.preflight import Goal


def require_packages(plan: SweepPlan) -> None:
    """See that Ray Tune and the searcher can be used, before a cluster is started.

    Raises:
        InputError: if there is no such searcher, or it needs a package.
        MissingExtraError: if Ray Tune is not installed.
    """
    require_tune()
    if (chosen := _chosen(plan)) is not None:
        require_searcher(*chosen)


def make_suggestions(
    plan: SweepPlan, goal: Goal, past: Past, *, tell: Callable[[str], None]
) -> Suggestions | None:
    """Return the searcher, brought to where it was when the sweep was interrupted.

    Args:
        plan: names it; None is returned where it does not.
        goal: what it searches for.
        past: what it was asked and told before.
        tell: is told a line if it cannot be brought there.
    """
    chosen = _chosen(plan)
    if chosen is None:
        return None
    space = {
        key: ("choice" if isinstance(values, Each) else values.kind, values.values)
        for key, values in plan.space.items()
    }
    suggestions = Suggestions(
        *chosen, space=space, metric=goal.metric, mode=goal.mode, seed=plan.section.seed
    )
    _replay(suggestions, past, tell)
    return suggestions


def _chosen(plan: SweepPlan) -> tuple[str, dict[str, Any]] | None:
    """Return the searcher's name and arguments."""
    chosen = plan.section.searcher
    if chosen is None or isinstance(chosen, str):
        return None if chosen is None else (chosen, {})
    return chosen[KIND], {key: value for key, value in chosen.items() if key != KIND}


def _replay(suggestions: Suggestions, past: Past, tell: Callable[[str], None]) -> None:
    """Ask and tell the searcher again what it was asked and told before."""
    for event in past.searched:
        number = event["trial"]
        if event["event"] == "ended":
            suggestions.tell(number, event["value"] if event["state"] in FINISHED else None)
        elif suggestions.suggest(number) != event["values"]:
            tell(
                "the searcher proposes otherwise than before; it goes on without knowing what "
                f"trial {number} and those after it have brought"
            )
            return
