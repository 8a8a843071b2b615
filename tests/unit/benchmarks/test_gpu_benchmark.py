"""The GPU benchmark on a CPU, at a tiny scale: what it does not leave out there, and its rule."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu import PARTS, run_parts
from on_gpu import against, reading, recording, stacking, waiting
from on_gpu.__main__ import FUNCTIONS, find
from on_gpu.place import Place
from on_gpu.shapes import SHAPES
from on_gpu.stacking import Points, Rule, fit_rule
from turns import RoundTime


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place("part", "cpu", 0.02, time.monotonic() + 60, tmp_path / "gpu.json")


def results(place: Place) -> dict[str, Any]:
    return json.loads(place.out.read_text())["part"]


def test_the_losses_of_simfl_and_bare_loops_agree_without_the_peer(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("on_gpu.peer.python_of_pfl", lambda: None)
    against.run(place, loops=("fused", "graphed"), runs={"simfl": ()})
    found = results(place)
    assert found["bare fused"]["losses_agree"]
    assert found["bare graphed"]["losses_agree"]
    assert "left_out" in found["pfl"]
    assert "pfl: left out: not installed" in capsys.readouterr().out


class Steady:
    """A contestant whose rounds all take as long; it fails after some."""

    def __init__(self, seconds: float, *, rounds: int = 100) -> None:
        self._seconds, self._left = seconds, rounds

    def take_turn(self, rounds: int) -> list[RoundTime]:
        self._left -= rounds
        if self._left < 0:
            raise SystemExit("it has ended with 1:\nTraceback\nKeyError: 'weights'")
        return [RoundTime(self._seconds, 2.0)] * rounds


def test_turns_are_told_as_ratios_and_scaled_to_all_rounds(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    contestants = {"simfl": Steady(0.2), "slow": Steady(0.4), "broken": Steady(0.1, rounds=3)}
    courses = {
        name: against.Course(one, warm_up=[RoundTime(1.0, 2.0)] * 2)
        for name, one in contestants.items()
    }
    against.take_turns(place, courses, most=8)
    found = results(place)
    assert found["slow"]["simfl_over_this"] == [0.5] * 4
    assert found["simfl"]["seconds_of_1500"] == pytest.approx(300)
    assert found["simfl"]["rounds"] == 8
    assert (
        "broken: left out: it has ended with 1: ... KeyError: 'weights'" in capsys.readouterr().out
    )


def test_the_rule_is_the_smallest_whose_worst_slowdown_is_least() -> None:
    small = Points("dense", 1000, {1: 8.0, 2: 4.0, 4: 2.1, 8: 2.0})
    large = Points("convolution", 40_000, {1: 1.0, 2: 2.0, 4: 4.0})
    assert small.largest_near == 8
    assert small.slowdown(Rule(1 << 16, 2)) == 2.0
    # 2^16 weights are 65 of the small clients, of which 8 were measured, and one large client.
    assert fit_rule([small, large]) == Rule(1 << 16, 8)
    assert fit_rule([large]) == Rule(1 << 16, 1)


def test_steps_of_all_kinds_are_timed_and_end_at_the_same_weights(place: Place) -> None:
    shapes = [shape for shape in SHAPES if shape.name == "64-64-10"]
    stacking.run(place, shapes)
    assert results(place)["64-64-10"]["seconds"].keys() == {"1", "2", "4"}
    assert results(place)["rule"]["all"]["slowdown"] >= 1
    recording.run(place, cases=[("64-64-10", 100), ("64-64-10", 1)])
    for stack in (1, 2):
        assert results(place)[f"64-64-10, stack {stack}, eager"]["apart"] < 1e-5


def test_simfl_evaluates_to_the_losses_of_a_bare_loop(place: Place) -> None:
    reading.evaluate(place, sizes=(8,))
    assert results(place)["batches of 8"]["losses_apart"] < 1e-6
    reading.read(place, workloads=("W1",))
    assert results(place)["W1, resident, stack 1"]["seconds_a_batch"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to wait for")
def test_what_takes_a_gpu_is_said_on_a_cpu(place: Place) -> None:
    waiting.run(place)
    assert results(place) == {"not_measured": "torch sees waits for a GPU only"}


def test_parts_run_in_their_processes_until_no_time_is_left(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert {*FUNCTIONS, "device"} == {*PARTS}
    assert all(callable(find(part)) for part in PARTS)
    out = tmp_path / "gpu.json"
    ends = time.monotonic() + 60
    assert run_parts(["device"], device="cpu", scale=0.02, out=out, ends=ends) == 0
    assert json.loads(out.read_text())["device"]["torch"] == torch.__version__
    assert run_parts(["W1"], device="cpu", scale=0.02, out=out, ends=time.monotonic()) == 0
    assert "W1: left out, no time is left" in capfd.readouterr().out
