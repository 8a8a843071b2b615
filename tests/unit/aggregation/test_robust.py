"""The geometric median and centred clipping against scipy, and the papers' formulas in numpy."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from simfl.aggregation import (
    AggregationContext,
    Aggregator,
    CenteredClipping,
    GeometricMedian,
    Krum,
    Mean,
)
from simfl.vector import Vector

CONTEXT = AggregationContext(
    seed=0, round=1, contributed=3, planned=3, population=9, trainable=("w",)
)


def stack(rows: list[list[float]] | np.ndarray) -> Vector:
    return Vector({"w": torch.tensor(np.array(rows))}, stacked=True)


def test_the_geometric_median_of_a_triangle_is_its_fermat_point() -> None:
    """(1.30217, 1.04675): each side is seen under 120 degrees."""
    rule = GeometricMedian(steps=1000, tolerance=1e-14)
    found = rule.combine(stack([[0, 0], [4, 0], [1, 3.0]]), torch.ones(3))["w"].numpy()
    np.testing.assert_allclose(found, [1.30217, 1.04675], atol=5e-6)
    arms = np.array([[0, 0], [4, 0], [1, 3.0]]) - found
    units = arms / np.linalg.norm(arms, axis=1, keepdims=True)
    np.testing.assert_allclose(units @ units.T, np.full((3, 3), -0.5) + 1.5 * np.eye(3), atol=1e-6)


@pytest.mark.parametrize("is_weighted", [False, True])
def test_the_geometric_median_minimizes_the_sum_of_distances(is_weighted: bool) -> None:
    rng = np.random.default_rng(3)
    points = rng.normal(size=(9, 4))
    weights = rng.integers(1, 9, size=9) if is_weighted else np.ones(9)

    def total(point: np.ndarray) -> float:
        return float(weights @ np.linalg.norm(points - point, axis=1))

    best = minimize(total, points.mean(0), method="BFGS", options={"gtol": 1e-10}).x
    rule = GeometricMedian(steps=1000, tolerance=1e-12)
    found = rule.combine(stack(points), torch.tensor(weights))["w"].numpy()
    np.testing.assert_allclose(found, best, atol=2e-6)


def test_the_geometric_median_ignores_what_is_far_away() -> None:
    """Of 4 at 0 or 1 and one at 1e30, in the same direction, the median is at 1."""
    found = GeometricMedian().combine(stack([[0.0], [1.0], [1.0], [0.0], [1e30]]), torch.ones(5))
    assert float(found["w"][0]) == pytest.approx(1.0, abs=1e-5)


def test_distances_are_those_of_trained_weights_and_buffers_follow() -> None:
    """By w the first two of Krum's are alike; buffers and counts, however large, change nothing."""
    deltas = Vector(
        {
            "w": torch.tensor([[0.0], [0.1], [5.0]]),
            "mean": torch.tensor([[1e6], [-1e6], [0.0]]),
            "count": torch.tensor([9e9, 0.0, 4.5e9], dtype=torch.float64),
        },
        stacked=True,
    )
    plain = deltas.select(["w"])
    for rule in (GeometricMedian(), Krum(num_byzantine=0, num_selected=2)):
        found = rule.combine(deltas, torch.ones(3), CONTEXT)
        torch.testing.assert_close(found["w"], rule.combine(plain, torch.ones(3))["w"])
    chosen = Krum(num_byzantine=0, num_selected=2).combine(deltas, torch.ones(3), CONTEXT)
    assert (chosen["mean"].item(), chosen["count"].item()) == (0.0, 4.5e9)


def run(rule: Aggregator, rounds: list[np.ndarray], *, stacks: bool) -> list[np.ndarray]:
    """Return each round's aggregate, with a buffer beside the weights."""
    state, found = rule.init(Vector({"w": torch.zeros(3, dtype=torch.float64)})), []
    for number, rows in enumerate(rounds, start=1):
        announced = rule.announce(state)
        deltas = stack(rows) | Vector({"b": torch.tensor(rows[:, :1])}, stacked=True)
        weights = [2.0] * len(rows)
        if stacks:
            total = rule.lift_stack(deltas, weights, announced)
        else:
            lifted = [rule.lift(delta.clone(), 2.0, announced) for delta in deltas.unstack()]
            total = functools.reduce(rule.merge, lifted)
        context = replace(CONTEXT, round=number, contributed=len(rows))
        delta, state = rule.finish(total, sum(weights), state, context)
        found.append(np.concatenate([delta["w"].numpy(), delta["b"].numpy()]))
    return found


@pytest.mark.parametrize("stacks", [False, True])
def test_centred_clipping_is_the_papers_formula_round_after_round(stacks: bool) -> None:
    rounds = [np.random.default_rng(seed).normal(size=(5, 3)) * 2 for seed in range(4)]
    v, expected = np.zeros(3), []
    for x in rounds:
        scale = np.minimum(1.0, 1.5 / np.linalg.norm(x - v, axis=1))
        v = v + ((x - v) * scale[:, None]).mean(axis=0)
        expected.append([*v, x[:, 0].mean()])
    found = run(CenteredClipping(radius=1.5), rounds, stacks=stacks)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_centred_clipping_within_the_radius_is_the_mean() -> None:
    rounds = [np.random.default_rng(seed).normal(size=(5, 3)) for seed in range(3)]
    found = run(CenteredClipping(radius=1e9), rounds, stacks=False)
    np.testing.assert_allclose([row[:3] for row in found], [x.mean(0) for x in rounds])
    mean = run(Mean(), rounds, stacks=True)
    np.testing.assert_allclose(found, mean)
