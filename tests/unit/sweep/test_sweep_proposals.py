"""A searcher goes on where it was."""

from __future__ import annotations

from typing import Any

import pytest

from simfl.scenario.sweeps import SweepPlan, load_sweep
from simfl.sweep.ledger import Past
from simfl.sweep.preflight import Goal
from simfl.sweep.proposals import make_suggestions

pytest.importorskip("optuna")
pytestmark = pytest.mark.filterwarnings("ignore")

GOAL = Goal("accuracy", "max")


@pytest.fixture
def plan() -> SweepPlan:
    overrides = ["sweep.searcher=optuna", "sweep.samples=20"]
    over = ["client.optimizer.lrate={loguniform: [0.001, 1.0]}"]
    return load_sweep("quickstart", overrides=overrides, over=over)


def told(plan: SweepPlan, number: int) -> tuple[Any, Past]:
    """Ask for so many proposals and tell of each; return the searcher, and the ledger of it."""
    asked, past = make_suggestions(plan, GOAL, Past(), tell=pytest.fail), Past()
    assert asked is not None
    for trial in range(number):
        values = asked.suggest(trial)
        value = -values["client.optimizer.lrate"]
        asked.tell(trial, value)
        past.add({"event": "proposed", "trial": trial, "values": values})
        past.add({"event": "ended", "trial": trial, "state": "done", "value": value})
    return asked, past


def test_a_resumed_searcher_proposes_what_it_would_have_proposed(plan):
    undisturbed, past = told(plan, 12)
    resumed = make_suggestions(plan, GOAL, past, tell=pytest.fail)
    fresh = make_suggestions(plan, GOAL, Past(), tell=pytest.fail)
    expected = undisturbed.suggest(12)
    assert resumed.suggest(12) == expected
    assert fresh.suggest(12) != expected


def test_one_that_proposes_otherwise_than_before_says_so(plan):
    _, past = told(plan, 2)
    past.searched[2]["values"] = {"client.optimizer.lrate": 0.5}
    lines: list[str] = []
    make_suggestions(plan, GOAL, past, tell=lines.append)
    (line,) = lines
    assert line.startswith(
        "the searcher proposes otherwise than before; it goes on without knowing"
    )
    assert "trial 1 and those after it" in line
