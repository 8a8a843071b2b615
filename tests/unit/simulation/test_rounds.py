"""The round loop goes back where states are lost, in whatever it was doing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import simfl
from simfl.engine import InlineEngine
from simfl.errors import StatesLostError
from simfl.messages import RoundTrace
from simfl.record import RoundRecord
from simfl.report.reading import read_run
from simfl.simulation.building import build
from simfl.simulation.checkpoints import Checkpoints
from simfl.simulation.rounds import PhaseClock, _laps, _Schedule

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


LEARNING = {"sampler": ["power-of-choice", {"candidates": 5}]}


@pytest.mark.parametrize(
    ("when", "sampling"),
    [
        ("save", {}),
        ("flush", {}),
        ("train", {}),
        ("evaluate", {}),
        ("evaluate", LEARNING),
        ("train", {"sampler": "poisson", "per_round": 1}),
    ],
)
def test_states_lost_while_saving_or_training_are_trained_again(
    when: str, sampling: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call fails, as if a node had gone; the numbers are those of an undisturbed run."""
    scenario = SCENARIO | {"client": SCENARIO["client"] | sampling}
    expected = simfl.run(scenario, out=tmp_path / "undisturbed", backend="inline")
    calls = []
    undisturbed = getattr(InlineEngine, when)

    def disturbed(engine: InlineEngine, *arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == (1 if when == "flush" else 2):
            raise StatesLostError("a node has gone")
        return undisturbed(engine, *arguments)

    monkeypatch.setattr(InlineEngine, when, disturbed)
    result = simfl.run(scenario, out=tmp_path / "disturbed", backend="inline")
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


def test_a_sampler_that_learns_draws_by_the_losses_before_and_so_does_a_resumed_run(
    tmp_path: Path,
) -> None:
    """All 6 are candidates and 2 are taken: first those that are new, then the largest losses."""
    client = SCENARIO["client"] | {
        "per_round": 2,
        "sampler": ["power-of-choice", {"candidates": 6}],
    }
    scenario = SCENARIO | {"client": client, "rounds": 6}
    whole = simfl.run(scenario, out=tmp_path / "whole", backend="inline")
    table = pq.read_table(tmp_path / "whole" / "clients.parquet").to_pydict()
    rows = list(zip(table["round"], table["client"], table["train_loss"], strict=True))
    assert sorted(client for round, client, _ in rows if round <= 3) == list(range(6))
    losses: dict[int, float] = {}
    for round in range(1, 7):
        own = {client: loss for number, client, loss in rows if number == round}
        if round > 3:
            assert set(own) == set(sorted(losses, key=lambda client: -losses[client])[:2])
        losses |= own
    simfl.run(scenario | {"rounds": 5}, out=tmp_path / "parts", backend="inline")
    resumed = simfl.run(scenario, out=tmp_path / "parts", backend="inline", resume="auto")
    assert resumed.summary["resumed_after_round"] == 4
    for name, array in whole.weights.items():
        assert resumed.weights[name].tobytes() == array.tobytes()


def test_a_round_without_clients_leaves_the_weights_and_goes_into_every_file(
    tmp_path: Path,
) -> None:
    client = SCENARIO["client"] | {"per_round": 1, "sampler": "poisson"}
    scenario = SCENARIO | {"client": client, "rounds": 8, "evaluation": {"clients_every": 1}}
    scenario |= {"seed": 3}
    result = simfl.run(scenario, out=tmp_path / "out", backend="inline")
    history = [RoundRecord.parse(line) for line in result.history]
    empty = [record for record in history if not record.clients]
    assert 0 < len(empty) < 8
    for record in empty:
        assert record.train_loss is None
        counts = record.dropped, record.examples, record.steps, record.sent_bytes
        assert counts == (0, 0, 0, 0)
        assert record.delta_norm == 0.0
        before = history[record.round - 2]
        if record.round > 1:
            assert record.metrics == before.metrics
            assert record.client_metrics == before.client_metrics
    assert result.summary["final"]["train_loss"] is not None
    rows = pq.read_table(tmp_path / "out" / "clients.parquet")["round"].to_pylist()
    assert sorted(set(rows)) == [record.round for record in history if record.clients]
    read = read_run(tmp_path / "out", now=0.0)
    assert [record["round"] for record in read.records if "train_loss" not in record] == [
        record.round for record in empty
    ]


def test_series_end_where_weights_are_used_and_wait_for_an_evaluation(tmp_path: Path) -> None:
    """Evaluated after rounds 5 and 9, saved after 3, 6 and 9."""
    plain = SCENARIO | {"rounds": 9, "evaluation": {"every": 5}, "checkpoint": {"every": 3}}
    schedule, take = _schedule(plain, tmp_path)
    assert take(1, length=1) == ([1], [2])
    schedule.note(1)
    assert take(2, length=4) == ([2], [3])
    schedule.note(1)
    assert take(3, length=4) == ([3], [4, 5])
    schedule.note(1)
    assert take(4, length=4) == ([4, 5], [])  # round 5 is evaluated before 6 begins
    schedule.note(1)  # the others of the series could not be run as such
    assert take(5, length=4) == ([5], [])
    schedule.note(1)
    assert take(6, length=4) == ([6], [7, 8, 9])
    schedule.forget()
    assert take(7, length=2) == ([7, 8], [9])


def test_with_a_sampler_that_asks_clients_one_round_is_planned_at_a_time(tmp_path: Path) -> None:
    plain = SCENARIO | {"client": SCENARIO["client"] | LEARNING}
    _, take = _schedule(plain, tmp_path)
    assert take(1, length=4) == ([1], [])


def _schedule(plain: dict[str, Any], folder: Path) -> tuple[_Schedule, Any]:
    """Return a schedule, and what returns the numbers of its next rounds, in two series."""
    loaded = simfl.load_scenario(plain)
    simulation = build(loaded)
    schedule = _Schedule(simulation, Checkpoints(loaded, folder, notify=print))
    past = simulation.read_past(None)

    def take(round: int, *, length: int) -> tuple[list[int], list[int]]:
        now, following = schedule.coming(round, past, lambda ids: ids * 1.0, length=length)
        return [plan.round for plan in now], [plan.round for plan in following]

    return schedule, take


def test_the_rounds_of_a_series_share_its_time_by_what_each_has_measured() -> None:
    ticks = iter([0.0, 1.0, 7.0, 7.0])
    clock = PhaseClock("sample", now=lambda: next(ticks))
    clock.enter("train")  # 1 s in sample
    traces = [RoundTrace((), 1.0, 1.0), RoundTrace((), 4.0, 2.0)]
    trained: Any = [(None, trace, None) for trace in traces]
    first, second = _laps(clock, trained, 6.0)
    assert first == {"sample": 0.25, "train": 0.9375, "aggregate": 0.5625}
    assert second == {phase: 3 * seconds for phase, seconds in first.items()}
