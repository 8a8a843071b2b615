"""What a searcher of Ray Tune's is asked and told; no cluster is needed for that."""

from __future__ import annotations

import statistics
import warnings

import pytest

from simfl.errors import InputError

pytest.importorskip("optuna")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from simfl.cluster.searching import Suggestions, require_searcher

SPACE = {
    "client.optimizer.lrate": ("loguniform", (1e-4, 1.0)),
    "client.batch_size": ("integers", (1, 3)),
    "model.hidden": ("choice", ([32], [64, 32])),
}

pytestmark = pytest.mark.filterwarnings("ignore")


def suggestions(seed: int = 0) -> Suggestions:
    return Suggestions("optuna", {}, space=SPACE, metric="accuracy", mode="max", seed=seed)


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
        require_searcher(kind, arguments)
    assert fault in str(error.value)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zoopt", None)
    with pytest.raises(InputError, match=r"install it with: pip install zoopt"):
        require_searcher("zoopt", {"algo": "asracos", "budget": 3})
