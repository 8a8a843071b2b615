"""Gradients are 1, 1, 1 and weights 2, 0, -4 unless a test says otherwise."""

import pytest
from toy_models import Quadratic, vector

from simfl.optimizer import Context, LocalOptimizer, Optimizer, Regularizer

GRADIENTS, WEIGHTS = vector(w=[1.0, 1.0, 1.0]), vector(w=[2.0, 0.0, -4.0])


def test_lasso_adds_the_sign_of_the_weights() -> None:
    lasso = Regularizer.from_name("lasso", {"alpha": 0.5})
    out, _ = lasso.update(GRADIENTS, WEIGHTS, {}, Context())
    assert out["w"].tolist() == [1.5, 1.0, 0.5]


def test_ridge_adds_twice_alpha_times_the_weights() -> None:
    ridge = Regularizer.from_name("ridge", {"alpha": 0.25})
    out, _ = ridge.update(GRADIENTS, WEIGHTS, {}, Context())
    assert out["w"].tolist() == [2.0, 1.0, -1.0]


def test_fedprox_pulls_towards_the_weights_of_the_round_s_first_step() -> None:
    """The reference is w at the first step since start_round.

    First step: g as it is. Second, with w = 3, 0, -4: g + 0.5 · (1, 0, 0) = 1.5, 1, 1. After
    start_round, with w = 3, 0, -4 again: g, as these are now the reference.
    """
    fedprox = Regularizer.from_name("fedprox", {"alpha": 0.5})
    moved = vector(w=[3.0, 0.0, -4.0])
    first, state = fedprox.update(GRADIENTS, WEIGHTS, {}, Context(step=1))
    second, state = fedprox.update(GRADIENTS, moved, state, Context(step=2))
    third, _ = fedprox.update(GRADIENTS, moved, fedprox.start_round(state), Context(step=1))
    assert first == GRADIENTS
    assert second["w"].tolist() == [1.5, 1.0, 1.0]
    assert third == GRADIENTS


def test_fedprox_keeps_nothing_between_rounds() -> None:
    model = Quadratic({"w": [1.0]})
    optimizer = Optimizer(0.1, regularizers=["fedprox"])
    local = LocalOptimizer(optimizer, stacked=False)
    local.begin((1,), round=1, kept=[None], aux={})
    local.apply_gradients(model, vector(w=[1.0]))
    assert local.end([1]) == [None]
    assert not optimizer.keeps_state


def test_fedprox_on_a_quadratic_settles_between_optimum_and_reference() -> None:
    """Minimizing w²/2 + alpha/2 (w - 3)² from 3: 0 = w + alpha (w - 3), w = 3 alpha / (1 + alpha).

    With alpha = 0.5 it is 1. Each step of 0.5 shrinks the error by 1 - 0.5 · 1.5 = 0.25: after
    20 steps nothing of it is left in float32.
    """
    model = Quadratic({"w": [3.0]})
    optimizer = Optimizer(0.5, regularizers=[("fedprox", {"alpha": 0.5})])
    optimizer.start_round()
    for _ in range(20):
        optimizer.run_train_step(model, None)
    assert model.weights["w"].item() == pytest.approx(1.0, rel=1e-6)
