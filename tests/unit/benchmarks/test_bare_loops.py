"""The yardstick is right: bare loops and simfl take the same steps.

In float64 they differ by the rounding of sums in another order only, by 1e-14 after some rounds. In
float32, which inputs of bytes become, it is 1e-6 of the weights' size after one step, and somewhat
more after a few rounds.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from bare.rounds import LOOPS, make_loop, share_for, train_alone
from bare.shared import share
from recipe import make_recipe, read_recipe
from run_simfl import SimflRun
from same_steps import compare_in_double
from workloads import WORKLOADS, Workload

ROUNDS = 3
SCALES = {
    "W1": 0.02,
    "W1-bytes": 0.02,
    "W2": 0.02,
    "W3": 0.04,
    "W4": 0.1,
    "ragged": 0.06,
    "cnn28": 0.1,
}
LOOPS_OF = {
    "W1": ("plain", "fused", "tuned", "graphed", "vmap"),
    "W1-bytes": ("fused", "tuned", "vmap"),
    "W2": ("plain", "fused", "tuned", "vmap", "batched"),
    "W3": ("plain", "fused", "tuned", "vmap", "batched"),
    "W4": ("plain", "fused", "tuned"),
    "ragged": ("plain", "fused", "graphed", "vmap", "batched"),
    "cnn28": ("fused", "tuned", "vmap"),
    "prox": ("plain", "fused", "tuned", "vmap"),
    "deep": ("fused", "vmap", "batched"),
    "lstm": ("plain", "fused"),
    "transformer": ("plain", "fused"),
    "resnet": ("plain", "fused", "tuned"),
}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", [n for n, work in WORKLOADS.items() if not work.as_bytes])
def test_bare_loops_reach_the_losses_and_the_weights_of_simfl(name: str):
    workload = WORKLOADS[name].scaled(SCALES.get(name, 0.05))
    _, found = compare_in_double(workload, LOOPS_OF[name], rounds=8)
    assert max(apart.losses for apart in found.values()) < 1e-12
    assert max(apart.weights for apart in found.values()) < 1e-12


def test_bare_loops_reach_the_losses_and_the_weights_of_simfl_on_bytes(tmp_path: Path):
    workload = WORKLOADS["W1-bytes"].scaled(SCALES["W1-bytes"])
    losses, weights = _train_with_simfl(workload, tmp_path)
    recipe = make_recipe(workload, rounds=ROUNDS)
    for kind in LOOPS_OF["W1-bytes"]:
        loop = make_loop(kind, workload, share_for(kind, recipe, ranks=1), 0)
        done = list(train_alone(loop, recipe))
        np.testing.assert_allclose([round.loss for round in done], losses, rtol=1e-5)
        for slot in loop.slots:
            found = slot.view(loop.shared.weights).numpy()
            np.testing.assert_allclose(found, weights[slot.name], rtol=1e-4, atol=1e-5)


def test_two_ranks_that_add_up_reach_what_one_does():
    workload = WORKLOADS["W4"].scaled(0.1)
    recipe = make_recipe(workload, rounds=2)
    alone = share(recipe, ranks=1)
    list(train_alone(LOOPS["fused"](workload, alone, 0), recipe))
    together = share(recipe, ranks=2)
    ranks = [LOOPS["fused"](workload, together, rank) for rank in range(2)]
    for cohort in recipe.rounds():
        for loop in ranks:
            loop.run(cohort[loop.rank :: 2], loop.prepare(cohort[loop.rank :: 2]))
        for loop in ranks:
            loop.fold(ranks=2)
    torch.testing.assert_close(together.weights, alone.weights)
    torch.testing.assert_close(together.control, alone.control)


def test_a_recipe_is_read_as_it_was_written(tmp_path: Path):
    recipe = make_recipe(WORKLOADS["ragged"].scaled(0.05), rounds=2)
    recipe.write(tmp_path / "recipe.npz")
    read = read_recipe(tmp_path / "recipe.npz")
    assert read.workload == recipe.workload
    assert read.weights.keys() == recipe.weights.keys()
    for ours, theirs in zip(recipe.rounds(), read.rounds(), strict=True):
        assert [(c.client, c.num_examples) for c in ours] == [
            (c.client, c.num_examples) for c in theirs
        ]
        for a, b in zip(ours, theirs, strict=True):
            assert [rows.tolist() for rows in a.batches] == [rows.tolist() for rows in b.batches]


def _train_with_simfl(workload: Workload, folder: Path):
    plain = workload.scenario(rounds=ROUNDS)
    with closing(SimflRun(plain, folder, backend="inline")) as run:
        losses = [run.run_round().loss for _ in range(ROUNDS)]
        return losses, run.get_weights()
