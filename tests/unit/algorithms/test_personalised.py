"""Personalised algorithms against their closed forms, and against the papers' steps in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from simfl.algorithms import APFL, Ditto, PerFedAvg, PFedMe
from tests.unit.algorithms.federation import (
    Federation,
    Linear64,
    least_squares,
    normal_equations,
)

CLIENTS = least_squares()
SIZES = np.array([len(x) for x, _ in CLIENTS])
PARTS = [normal_equations(client) for client in CLIENTS]
EXACT = {"rtol": 0, "atol": 1e-10}
STACKS = pytest.mark.parametrize("stack", [1, 4])


def gradient(k: int, w: np.ndarray) -> np.ndarray:
    A, b = PARTS[k]
    return A @ w - b


def mean(rows: list[np.ndarray]) -> np.ndarray:
    return np.average(rows, axis=0, weights=SIZES)


@STACKS
def test_dittos_models_are_the_optima_of_its_objective(stack: int) -> None:
    """v = (A + lambda)^-1 (b + lambda w), with w the server's weights; and w is FedAvg's."""
    ditto = Federation(
        Ditto(strength=0.7, own_epochs=12), CLIENTS, Linear64(3), lrate=0.5, stack=stack
    ).run(4)
    w = np.zeros(3)
    for _ in range(3):
        w = mean([w - 0.5 * gradient(k, w) for k in range(4)])
    for k, (A, b) in enumerate(PARTS):
        expected = np.linalg.solve(A + 0.7 * np.eye(3), b + 0.7 * w)
        np.testing.assert_allclose(ditto.personal(k)["w"], expected, **EXACT)
    w = mean([w - 0.5 * gradient(k, w) for k in range(4)])
    np.testing.assert_allclose(ditto.weights["w"], w, **EXACT)


@STACKS
def test_pfedme_is_the_papers_algorithm_round_by_round(stack: int) -> None:
    rate, strength, eta, beta = 0.1, 2.0, 0.05, 0.8
    pfedme = Federation(
        PFedMe(strength=strength, inner_steps=3, eta=eta),
        CLIENTS,
        Linear64(3),
        lrate=rate,
        server_lrate=beta,
        stack=stack,
        steps=4,
    )
    w = np.zeros(3)
    for _ in range(3):
        ends = []
        for k in range(4):
            own = theta = w
            for _ in range(4):
                for _ in range(3):
                    theta = theta - rate * (gradient(k, theta) + strength * (theta - own))
                own = own - eta * strength * (own - theta)
            ends.append(own)
        w = (1 - beta) * w + beta * mean(ends)
        pfedme.run()
        np.testing.assert_allclose(pfedme.weights["w"], w, **EXACT)
    np.testing.assert_allclose(pfedme.personal(3)["w"], theta, **EXACT)


def test_pfedme_ends_at_the_optimum_of_the_moreau_envelopes() -> None:
    """The gradient of an envelope is lambda (w - theta), theta = (A + lambda)^-1 (b + lambda w)."""
    strength, eye = 2.0, np.eye(3)
    pfedme = Federation(
        PFedMe(strength=strength, inner_steps=20, eta=1.0), CLIENTS, Linear64(3), lrate=0.3
    ).run(30)
    inverse = [np.linalg.inv(A + strength * eye) for A, _ in PARTS]
    left = mean([eye - strength * inv for inv in inverse])
    right = mean([inv @ b for inv, (_, b) in zip(inverse, PARTS, strict=True)])
    optimum = np.linalg.solve(left, right)
    np.testing.assert_allclose(pfedme.weights["w"], optimum, **EXACT)
    for k, (_, b) in enumerate(PARTS):
        expected = inverse[k] @ (b + strength * optimum)
        np.testing.assert_allclose(pfedme.personal(k)["w"], expected, **EXACT)


@STACKS
@pytest.mark.parametrize("adaptive", [False, True])
def test_apfl_is_the_papers_algorithm_round_by_round(stack: int, adaptive: bool) -> None:
    rate = 0.05
    apfl = Federation(
        APFL(alpha=0.3, adaptive=adaptive), CLIENTS, Linear64(3), lrate=rate, stack=stack, steps=3
    )
    w, v, alpha = np.zeros(3), [np.zeros(3)] * 4, [0.3] * 4
    for _ in range(4):
        ends = []
        for k in range(4):
            own = w
            for _ in range(3):
                mixed = gradient(k, alpha[k] * v[k] + (1 - alpha[k]) * own)
                slope = (v[k] - own) @ mixed
                own, v[k] = (
                    own - rate * gradient(k, own),
                    v[k] - rate * alpha[k] * mixed,
                )
                if adaptive:
                    alpha[k] = min(max(alpha[k] - rate * slope, 0.0), 1.0)
            ends.append(own)
        w = mean(ends)
        apfl.run()
        np.testing.assert_allclose(apfl.weights["w"], w, **EXACT)
    for k in range(4):
        expected = alpha[k] * v[k] + (1 - alpha[k]) * w
        np.testing.assert_allclose(apfl.personal(k)["w"], expected, **EXACT)
    if adaptive:
        assert len(set(alpha)) > 2


@STACKS
@pytest.mark.parametrize("hessian", ["none", "differences"])
def test_per_fedavg_ends_where_its_meta_gradients_cancel(stack: int, hessian: str) -> None:
    """After a step of alpha the gradient is (1 - alpha A)(A w - b); FO has no other factor.

    So FO ends at the optimum for weights p_k A_k (1 - alpha A_k), and HF, whose differences are
    exact for a quadratic, at that for p_k (1 - alpha A_k) A_k (1 - alpha A_k).
    """
    alpha, eye = 0.2, np.eye(3)
    algorithm = PerFedAvg(alpha=alpha, steps=1, hessian=hessian)  # type: ignore[arg-type]
    fed = Federation(algorithm, CLIENTS, Linear64(3), lrate=1.0, stack=stack).run(25)
    after = [eye - alpha * A for A, _ in PARTS]
    factors = after if hessian == "none" else [M @ M for M in after]
    left = mean([M @ A for M, (A, _) in zip(factors, PARTS, strict=True)])
    right = mean([M @ b for M, (_, b) in zip(factors, PARTS, strict=True)])
    optimum = np.linalg.solve(left, right)
    tolerance = EXACT
    np.testing.assert_allclose(fed.weights["w"], optimum, **tolerance)
    adapted = optimum - alpha * gradient(2, optimum)
    np.testing.assert_allclose(fed.personal(2)["w"], adapted, **tolerance)


def test_own_models_of_clients_that_do_not_take_part_stay() -> None:
    ditto = Federation(Ditto(), CLIENTS, Linear64(3)).run(1)
    before = ditto.kept(0)["v"]
    ditto.run(2, cohort=[1, 3])
    assert ditto.kept(0)["v"] == before
    assert not torch.equal(ditto.kept(1)["v"]["w"], before["w"])
