"""Ray Tune's searchers, which need no cluster: their proposals, and how they are resumed."""

from __future__ import annotations

import json
import statistics
import warnings
from typing import Any

import pytest

from simfl.errors import InputError
from simfl.scenario.sweeps import SweepPlan, load_sweep
from simfl.sweep.ledger import Past
from simfl.sweep.results import Goal

pytest.importorskip("optuna")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from simfl.sweep.searching import Suggestions, make_searcher, make_suggestions

GOAL = Goal("accuracy", "max")

SPACE = {
    "client.optimizer.lrate": {"loguniform": [1e-4, 1.0]},
    "client.batch_size": {"integers": [1, 3]},
    "model.hidden": {"choice": [[32], [64, 32]]},
}

pytestmark = pytest.mark.filterwarnings("ignore")


def suggestions(seed: int = 0) -> Suggestions:
    chosen = ["model.kind=mlp", "sweep.searcher=optuna", "sweep.samples=99", f"sweep.seed={seed}"]
    over = [f"{key}={json.dumps(values)}" for key, values in SPACE.items()]
    return Suggestions(load_sweep("quickstart", overrides=chosen, over=over), GOAL)


def test_proposals_are_values_of_the_space():
    asked = suggestions()
    found = [asked.suggest(number) for number in range(8)]
    for values in found:
        assert values.keys() == SPACE.keys()
        assert 1e-4 <= values["client.optimizer.lrate"] <= 1.0
        assert values["client.batch_size"] in (1, 2, 3)
        assert values["model.hidden"] in ([32], [64, 32])
    assert {tuple(values["model.hidden"]) for values in found} == {(32,), (64, 32)}


def test_a_searcher_that_is_asked_and_told_the_same_proposes_the_same():
    first, second = suggestions(), suggestions()
    for number in range(14):  # the first ten are by chance
        proposed = first.suggest(number)
        assert second.suggest(number) == proposed
        for asked in (first, second):
            asked.tell(number, None if number == 3 else -abs(proposed["client.optimizer.lrate"]))


def test_a_trial_that_is_tried_again_is_told_of_once():
    asked = suggestions()
    asked.suggest(0)
    asked.tell(0, None)
    asked.tell(0, 0.5)  # optuna itself would raise
    assert asked.suggest(1) is not None


@pytest.mark.parametrize("sign", [1, -1])
def test_proposals_go_by_what_they_are_told(sign):
    asked = suggestions()
    for number in range(30):
        asked.tell(number, sign * asked.suggest(number)["client.optimizer.lrate"])
    later = [asked.suggest(number)["client.optimizer.lrate"] for number in range(30, 37)]
    # By chance half of them would be above the middle of the range, on its own scale.
    assert (statistics.median(later) > 0.01) == (sign > 0)


@pytest.mark.parametrize(
    ("kind", "arguments", "fault"),
    [
        ("optunaa", {}, "sweep.searcher is 'optunaa'. Did you mean 'optuna'?"),
        ("optuna", {"sead": 1}, "'optuna' has no argument 'sead'. Did you mean 'seed'?"),
    ],
)
def test_a_mistake_is_told(kind, arguments, fault):
    with pytest.raises(InputError) as error:
        make_searcher(kind, arguments, seed=0)
    assert fault in str(error.value)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zoopt", None)
    with pytest.raises(InputError, match=r"install it with: pip install zoopt"):
        make_searcher("zoopt", {"algo": "asracos", "budget": 3}, seed=0)


@pytest.fixture
def plan() -> SweepPlan:
    overrides = ["sweep.searcher=optuna", "sweep.samples=20"]
    over = ["client.optimizer.lrate={loguniform: [0.001, 1.0]}"]
    return load_sweep("quickstart", overrides=overrides, over=over)


def told(plan: SweepPlan, number: int) -> tuple[Any, Past]:
    """Ask for this many proposals, tell their results, and return the searcher and its ledger."""
    asked, past = make_suggestions(plan, GOAL, Past(), notify=pytest.fail), Past()
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
    resumed = make_suggestions(plan, GOAL, past, notify=pytest.fail)
    fresh = make_suggestions(plan, GOAL, Past(), notify=pytest.fail)
    expected = undisturbed.suggest(12)
    assert resumed.suggest(12) == expected
    assert fresh.suggest(12) != expected


def test_one_that_proposes_otherwise_than_before_says_so(plan):
    _, past = told(plan, 2)
    past.searched[2]["values"] = {"client.optimizer.lrate": 0.5}
    lines: list[str] = []
    make_suggestions(plan, GOAL, past, notify=lines.append)
    (line,) = lines
    assert line.startswith(
        "the searcher proposes other values than before; it continues without the results"
    )
    assert "trial 1 and of those after it" in line


@pytest.fixture
def over_seeds() -> SweepPlan:
    overrides = ["sweep.searcher=optuna", "sweep.samples=15", "sweep.seeds=[3,5]"]
    over = ["client.optimizer.lrate={loguniform: [0.001, 1.0]}"]
    return load_sweep("quickstart", overrides=overrides, over=over)


def test_a_proposal_is_tried_with_each_seed_and_judged_by_the_mean(over_seeds, plan):
    """Values of each pair of trials whose mean is -lrate: as with a single trial of that value."""
    asked, alone = Suggestions(over_seeds, GOAL), Suggestions(plan, GOAL)
    assert over_seeds.num_trials == 30
    for number in range(14):  # the first ten are by chance
        proposed = alone.suggest(number)
        pair = [asked.suggest(2 * number + place) for place in (0, 1)]
        assert pair == [{**proposed, "seed": seed} for seed in (3, 5)]
        value = -proposed["client.optimizer.lrate"]
        alone.tell(number, value)
        asked.tell(2 * number + 1, value + 0.25)
        asked.tell(2 * number, value - 0.25)


def test_a_proposal_fails_if_one_of_its_seeds_does(over_seeds, monkeypatch):
    asked, sent = Suggestions(over_seeds, GOAL), []
    monkeypatch.setattr(
        asked._searcher, "on_trial_complete", lambda *a, **k: sent.append((*a, *k.values()))
    )
    for number in range(4):
        asked.suggest(number)
    for number, value in ((0, None), (3, 0.5), (1, 0.5)):
        asked.tell(number, value)
    assert sent == [("0", None, True)]
    asked.tell(2, 0.25)
    assert sent[1] == ("1", {"accuracy": 0.375}, False)


def test_a_resumed_sweep_repeats_a_proposal_with_the_seeds_that_are_left(over_seeds):
    _, past = told(over_seeds, 3)
    past.searched[0]["values"] = {}  # so that the searcher cannot be brought to where it was
    resumed = make_suggestions(over_seeds, GOAL, past, notify=lambda line: None)
    rate = past.proposed[2]["client.optimizer.lrate"]
    assert resumed.suggest(3) == {"client.optimizer.lrate": rate, "seed": 5}
