"""The round loop goes back where states are lost, in whatever it was doing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import simfl
from simfl.engine import InlineEngine
from simfl.errors import StatesLostError
from simfl.record import RoundRecord

SCENARIO: dict[str, Any] = {
    "rounds": 5,
    "data": {"source": "digits", "test_fraction": 0.2, "partition": {"kind": "iid", "clients": 6}},
    "model": {"kind": "logistic"},
    "client": {
        "per_round": 3,
        "batch_size": 50,
        "optimizer": {"lrate": 0.1, "modules": ["momentum"]},
    },
    "evaluation": {"every": 2},
    "checkpoint": {"every": 2},
}


@pytest.mark.parametrize("when", ["save", "flush", "train", "evaluate"])
def test_states_lost_while_saving_or_training_are_trained_again(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call fails, as if a node had gone; the numbers are those of an undisturbed run."""
    expected = simfl.run(SCENARIO, out=tmp_path / "undisturbed", backend="inline")
    calls = []
    undisturbed = getattr(InlineEngine, when)

    def disturbed(engine: InlineEngine, *arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == (1 if when == "flush" else 2):
            raise StatesLostError("a node has gone")
        return undisturbed(engine, *arguments)

    monkeypatch.setattr(InlineEngine, when, disturbed)
    result = simfl.run(SCENARIO, out=tmp_path / "disturbed", backend="inline")
    assert len(calls) >= 2, "the run has not gone back"
    assert [RoundRecord.parse(r).reproducible for r in result.history] == [
        RoundRecord.parse(r).reproducible for r in expected.history
    ]
    for name, array in expected.weights.items():
        assert result.weights[name].tobytes() == array.tobytes()


@pytest.mark.parametrize(("every", "ends"), [(2, False), (4, True)])
def test_rollbacks_are_counted_anew_after_a_newer_checkpoint(
    every: int, ends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds 3, 5, 7 and 9 are lost once each, where one loss after each checkpoint is allowed.

    With a checkpoint every 4 rounds both 5 and 7 go back to the one of round 4.
    """
    scenario = SCENARIO | {"rounds": 10, "checkpoint": {"every": every}}
    scenario |= {"cluster": {"max_retries": 1}}
    left = {3, 5, 7, 9}
    undisturbed = InlineEngine.train

    def disturbed(engine: InlineEngine, plan: Any, handle: Any) -> Any:
        if plan.round in left:
            left.remove(plan.round)
            raise StatesLostError("a node has gone")
        return undisturbed(engine, plan, handle)

    monkeypatch.setattr(InlineEngine, "train", disturbed)
    if ends:
        with pytest.raises(StatesLostError):
            simfl.run(scenario, out=tmp_path / "out", backend="inline")
        assert left == {9}
    else:
        result = simfl.run(scenario, out=tmp_path / "out", backend="inline")
        assert [record["round"] for record in result.history] == list(range(1, 11))
        assert not left
