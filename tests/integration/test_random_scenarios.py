"""Scenarios drawn at random give one result: inline, on Ray, resumed, and in stacks.

The suite takes a few seeds, the same ones every time; ``SIMFL_RANDOM=300`` takes the first 300, and
``SIMFL_RANDOM=300:600`` the next.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import at_random
import numpy as np
import pytest
from test_same_bits import merged, numbers

import simfl

QUICK = 5
"""How many of the runs on Ray are not marked as slow."""


def seeds(default: int) -> range:
    first, _, last = os.environ.get("SIMFL_RANDOM", f"0:{default}").rpartition(":")
    return range(int(first or 0), int(last))


def run(scenario: dict[str, Any], out: Path, backend: Any = "inline", **how: Any) -> simfl.Result:
    return simfl.run(scenario, out=out, backend=backend, **how)


@pytest.mark.ray
@pytest.mark.parametrize(
    "seed",
    [pytest.param(n, marks=[pytest.mark.slow] if n >= QUICK else []) for n in seeds(24)],
)
def test_inline_ray_and_resumed_runs_give_the_same_bits(
    seed: int, tmp_path: Path, ray_cluster: None, in_threads: Callable[[int], None]
) -> None:
    """A third runs on Ray throughout, a third begins there, and a third goes on there.

    One start of Ray's actors for each seed: they take most of the time. What is inline of the
    resumed run trains in threads.
    """
    scenario = at_random.draw(seed)
    in_threads(1)
    expected = numbers(run(scenario, tmp_path / "inline"))
    in_threads(2)
    first, then = [("inline", "inline"), ("inline", "ray"), ("ray", "inline")][seed % 3]
    if "ray" not in (first, then):
        assert numbers(run(scenario, tmp_path / "ray", "ray")) == expected
    run(merged(scenario, {"rounds": 2 + seed % 2}), tmp_path / "halves", first)
    result = run(scenario, tmp_path / "halves", then, resume="auto")
    assert result.summary["resumed_after_round"] >= 2
    assert numbers(result) == expected


@pytest.mark.parametrize("seed", seeds(6))
def test_a_loop_with_the_scenarios_server_gives_the_bits_of_a_run(
    seed: int, tmp_path: Path
) -> None:
    """Metrics of rounds that the run does not evaluate are left out, and those that are arrays."""
    scenario = at_random.draw(seed)
    scenario.pop("stop", None)  # a loop that evaluates in other rounds may end in another
    weights, records = numbers(run(scenario, tmp_path / "run"))
    lines = [{k: v for k, v in one.items() if not isinstance(v, list)} for one in records]
    with simfl.federation(scenario, "inline", out=tmp_path / "loop") as fed:
        w = fed.initial_weights()
        for round in fed.rounds:
            w = fed.step(w, fed.train(w, fed.sample(round, w), round=round))
            fed.log(round, **fed.evaluate(w, clients=True))
    own_weights, own = numbers(fed.result)
    assert own_weights == weights
    known = [
        {key: value for key, value in record.items() if key in line}
        for record, line in zip(own, lines, strict=True)
    ]
    assert known == lines


@pytest.mark.parametrize(
    "seed", [seed for seed in seeds(60) if at_random.can_be_compared(at_random.draw(seed))]
)
def test_stacks_give_the_numbers_of_one_client_at_a_time(seed: int, tmp_path: Path) -> None:
    """Products of stacks add up in another order, which is a few units in the last place of float32
    a step; two rounds of at most 40 steps make less than 1e-4 of it, a mix-up of clients 1e-2."""
    together = {"groups": [], "placement": "pool"}
    scenario = merged(at_random.draw(seed), {"rounds": 2, "cluster": together})
    one, stacked = (
        run(merged(scenario, {"client": {"stack": stack}}), tmp_path / f"stack-{stack}")
        for stack in (1, 4)
    )
    for name, weights in one.weights.items():
        np.testing.assert_allclose(stacked.weights[name], weights, rtol=1e-3, atol=1e-4)
    for mine, theirs in zip(stacked.history, one.history, strict=True):
        for key in ("clients", "dropped", "examples", "steps", "sent_bytes", "received_bytes"):
            assert mine[key] == theirs[key], key
