"""A lost object is recreated, or the run is rolled back; the numbers stay the same."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
from fake_ray import FakeRef, fake_engine, lose
from ray.exceptions import ActorUnavailableError

import simfl
import simfl.cluster.cohorts
from simfl.cluster.cohorts import Cohorts
from simfl.cluster.combining import KEPT_BYTES
from simfl.engine import equal_chunks
from simfl.record import RoundRecord
from simfl.simulation.backends import make_engine
from simfl.simulation.building import build
from simfl.simulation.checkpoints import Checkpoints
from simfl.simulation.rounds import run_rounds

SCENARIO: dict[str, Any] = {
    "rounds": 3,
    "data": {
        "source": "digits",
        "test_fraction": 0.2,
        "partition": {"kind": "iid", "clients": 6},
    },
    "model": {"kind": "logistic"},
    "client": {"batch_size": 50, "stack": 1, "optimizer": {"lrate": 0.1, "modules": ["momentum"]}},
    "server": {"optimizer": {"lrate": 0.01, "modules": ["adam"]}},
    "evaluation": {"every": 1, "batch_size": 100},
    "checkpoint": {"every": 1},
}
Numbers = tuple[dict[str, bytes], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Numbers:
    result = simfl.run(SCENARIO, out=tmp_path_factory.mktemp("run") / "out", backend="inline")
    weights = {name: array.tobytes() for name, array in result.weights.items()}
    return weights, [RoundRecord.parse(record).reproducible for record in result.history]


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, spoil: Any) -> Numbers:
    loaded = simfl.load_scenario(SCENARIO)
    simulation, checkpoints = build(loaded), Checkpoints(loaded, folder, notify=print)
    engine = fake_engine(simulation, monkeypatch, location=checkpoints.location, spoil=spoil)
    records: dict[int, Any] = {}
    for done in run_rounds(simulation, engine, checkpoints, handle=engine.start()):
        records[done.record["round"]] = done.record.reproducible
        handle = done.handle
    weights = engine.get_weights(handle).to_numpy()
    return {name: array.tobytes() for name, array in weights.items()}, list(records.values())


class Losses:
    """Spoils the calls of a method, by their number from 1."""

    def __init__(self, method: str, *numbers: int) -> None:
        self.method, self.numbers, self.count = method, numbers, 0

    def __call__(self, label: str, method: str, refs: list[FakeRef]) -> None:
        if method == self.method:
            self.count += 1
            if self.count in self.numbers:
                lose(refs, method)


def test_a_round_that_is_repeated_in_other_chunks_counts_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Numbers
) -> None:
    """The first chunk of three has been received when the second turns out to lack an input."""
    sizes = iter([2, 2, 3, 1])

    def cut(cohorts: Cohorts, plan: Any, part: Any) -> Any:
        return equal_chunks(plan, part, next(sizes))

    monkeypatch.setattr(Cohorts, "_cut", cut)
    losses = Losses("train_chunk", 5)
    assert run(monkeypatch, tmp_path, losses) == undisturbed
    assert losses.count > 5


@pytest.mark.parametrize("numbers", [(2,), (2, 4)])
def test_an_evaluation_that_loses_an_object_is_repeated_or_the_run_rolled_back(
    numbers: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Numbers
) -> None:
    losses = Losses("evaluate_chunk", *numbers)
    assert run(monkeypatch, tmp_path, losses) == undisturbed
    assert losses.count > max(numbers)


def test_a_lost_snapshot_takes_the_run_back_to_its_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Numbers
) -> None:
    """The server cannot be restored from it to repeat the round."""
    trained, restored = Losses("train_chunk", 5), Losses("restore", 1)

    def spoil(label: str, method: str, refs: list[FakeRef]) -> None:
        trained(label, method, refs)
        restored(label, method, refs)

    assert run(monkeypatch, tmp_path, spoil) == undisturbed
    assert restored.count > 1


def test_a_partial_that_is_lost_before_the_servers_step_has_the_cohort_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Numbers
) -> None:
    losses = Losses("end_round", 2)
    assert run(monkeypatch, tmp_path, losses) == undisturbed
    assert losses.count == 4


@pytest.mark.parametrize(("kept_bytes", "alive", "chunks"), [(KEPT_BYTES, 3, 9), (0, 1, 12)])
def test_a_server_that_dies_gets_the_partials_again_or_those_of_the_cohort_trained_again(
    kept_bytes: int,
    alive: int,
    chunks: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: Numbers,
) -> None:
    """Three rounds of three chunks each; partials that are not kept are freed meanwhile."""
    monkeypatch.setattr(simfl.cluster.combining, "KEPT_BYTES", kept_bytes)
    monkeypatch.setattr(simfl.cluster.combining, "HELD_BYTES", 0)
    monkeypatch.setattr(simfl.cluster.cohorts, "COSTLY_BYTES", -1)  # no end is called for ahead
    partials: list[weakref.ref[FakeRef]] = []
    left: list[int] = []

    def die_once(label: str, method: str, refs: list[FakeRef]) -> None:
        if method == "train_chunk":
            partials.append(weakref.ref(refs[1]))
        if method == "end_round":
            left.append(sum(ref() is not None for ref in partials[-3:]))
            for ref in refs if len(left) == 2 else []:
                ref.error = ActorUnavailableError("the server has died", None)

    assert run(monkeypatch, tmp_path, die_once) == undisturbed
    assert (left, len(partials)) == ([alive] * 4, chunks)


def test_a_sum_that_is_lost_on_its_way_to_the_driver_is_formed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums without a server's step, with states that clients keep, are those of one process."""
    simulation = build(simfl.load_scenario(SCENARIO))
    losses = Losses("add_up", 2)
    engines = [
        fake_engine(simulation, monkeypatch, location=str(tmp_path / "fake"), spoil=losses),
        make_engine(simulation, "inline", address=None, location=str(tmp_path / "inline")),
    ]
    totals = []
    for engine in engines:
        handle = engine.put(simulation.server.build().snapshot(1))
        plans = [simulation.plan_round(round) for round in (1, 2, 3)]
        totals.append([engine.add_up(engine.train(plan, handle)) for plan in plans])
        engine.close()
    assert totals[0] == totals[1]
    assert losses.count == 4
