"""Which trial is next and what is recorded of each, without Ray."""

from __future__ import annotations

import io
import math
from pathlib import Path

from rich.console import Console

from simfl.scenario.sweeps import Trial, load_sweep
from simfl.sweep.ledger import Ledger, Past, read_past
from simfl.sweep.progress import SweepLines
from simfl.sweep.results import Goal
from simfl.sweep.schedule import Schedule
from simfl.sweep.trials import Order


class FakeSearcher:
    """Proposes seeds, with a pause after the first, and notes the results."""

    def __init__(self) -> None:
        self.told: list[tuple[int, float | None]] = []

    def suggest(self, number: int) -> dict[str, object] | None:
        return {"seed": number} if number == 0 or self.told else None

    def tell(self, number: int, value: float | None) -> None:
        self.told.append((number, value))


def schedule(
    folder: Path, *overrides: str, past: Past | None = None, searcher: FakeSearcher | None = None
) -> Schedule:
    plan = load_sweep("quickstart", over=["seed=0..2"], overrides=overrides)
    progress = SweepLines(Console(file=io.StringIO()), Goal("accuracy", "max"), total=3)

    def order(trial: Trial) -> Order:
        return Order(trial.number, text=trial.label, bundles=[], labels=[])

    return Schedule(
        plan,
        Ledger(folder, past),
        searcher=searcher,  # type: ignore[arg-type]
        make_order=order,
        progress=progress,
    )


def numbers(found: Schedule) -> list[int]:
    """Take all orders."""
    return [order.number for order in iter(found.next_order, None)]


def test_trials_are_handed_out_once_and_in_order(tmp_path):
    found = schedule(tmp_path)
    assert not found.has_all
    assert numbers(found) == [0, 1, 2]
    assert found.has_all


def test_a_resumed_sweep_continues_started_trials_first_and_skips_finished_ones(tmp_path):
    found = schedule(tmp_path)
    found.started(0)
    found.ended(0, {"round": 5, "value": 0.5, "done": True, "state": "done"})
    found.started(2)
    resumed = schedule(tmp_path, past=read_past(tmp_path))
    assert [trial.number for trial in resumed.finished] == [0]
    assert numbers(resumed) == [2, 1]


def test_a_trial_ends_with_the_last_value_that_was_measured(tmp_path):
    found = schedule(tmp_path)
    for trial, value in ((0, 0.5), (1, math.nan)):
        found.started(trial)
        found.reported(trial, {"round": 4, "value": value})
        found.ended(trial, {"round": 5})  # without an evaluation
    found.lost(2, "its process died")
    ended = read_past(tmp_path).ended
    assert [(ended[n]["state"], ended[n]["value"]) for n in range(3)] == [
        ("stopped", 0.5),
        ("stopped", None),
        ("failed", None),
    ]
    assert ended[2]["error"] == "its process died"


def test_a_searcher_is_asked_until_there_are_enough_trials_and_told_results(tmp_path):
    searcher = FakeSearcher()
    found = schedule(tmp_path, "sweep.searcher=optuna", "sweep.samples=2", searcher=searcher)
    assert numbers(found) == [0]  # it needs a result before it proposes more
    assert not found.has_all
    found.ended(0, {"value": 0.5, "state": "done"})
    assert numbers(found) == [1]
    assert found.has_all
    found.ended(1, {"state": "failed", "error": "no"})
    assert searcher.told == [(0, 0.5), (1, None)]
    assert read_past(tmp_path).proposed == {0: {"seed": 0}, 1: {"seed": 1}}
