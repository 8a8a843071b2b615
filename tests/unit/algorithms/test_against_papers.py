"""Each algorithm is its paper's, round by round: the pseudocode in numpy, on least squares.

Cohorts are three of six clients. In float64 the two differ by rounding, which some steps add up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import papers
import pytest
from least_squares import Run
from papers import Array, LeastSquares

from simfl.algorithms import (
    AFL,
    AdaptiveFedProx,
    Algorithm,
    FedAvg,
    FedDC,
    FedDyn,
    FedExP,
    FedLin,
    FedNova,
    FedSGD,
    Mime,
    MimeLite,
    OneShot,
    QFedAvg,
    Scaffold,
)

PROBLEM = LeastSquares.draw([1, 2, 3, 4, 5, 8])
START = np.array([0.5, -1.0, 2.0])
COHORTS = [(0, 3, 5), (1, 2, 5), (0, 1, 4), (3, 4, 5), (0, 2, 3), (1, 4, 5), (0, 4, 5), (1, 2, 3)]
TWICE = [cohort for cohort in COHORTS for _ in range(2)]
ALL = [tuple(range(6))] * 8

WORK: dict[str, Any] = {"lrate": 0.1, "steps": 5}
TOLERANCE = {"float64": 1e-10, "float32": 1e-6}
"""Numbers are about 1, and eight rounds of float32 are within 3e-7."""


STACKS = pytest.mark.parametrize("stack", [1, 4])
TYPES = pytest.mark.parametrize("dtype", list(TOLERANCE))


def paper(function: Callable[..., Array], **options: Any) -> Array:
    return function(PROBLEM, START, COHORTS, **WORK, **options)


def every_second(weights: Array) -> Array:
    """Return the weights where a round of the paper is two: the first leaves them as they are."""
    before = np.concatenate([START[None], weights[:-1]])
    return np.stack([before, weights], axis=1).reshape(-1, len(START))


CASES: dict[str, tuple[Algorithm, Callable[[], Array]]] = {
    "fedavg": (FedAvg(), lambda: paper(papers.fedavg)),
    "feddyn": (FedDyn(alpha=0.3), lambda: paper(papers.feddyn, alpha=0.3)),
    "fedexp": (FedExP(), lambda: paper(papers.fedexp, epsilon=1e-3)),
    "fedexp, epsilon": (FedExP(epsilon=0.5), lambda: paper(papers.fedexp, epsilon=0.5)),
    "q-fedavg": (QFedAvg(q=2.0), lambda: paper(papers.q_fedavg, q=2.0)),
    "q-fedavg, a fraction": (QFedAvg(q=0.3), lambda: paper(papers.q_fedavg, q=0.3)),
    "q-fedavg, q = 0": (QFedAvg(q=0.0), lambda: paper(papers.q_fedavg, q=0.0)),
    "afl": (AFL(lambda_lrate=0.02), lambda: paper(papers.afl, lambda_lrate=0.02)),
    "adaptive-fedprox": (
        AdaptiveFedProx(mu=0.3, step=0.2, patience=1),
        lambda: paper(papers.adaptive_fedprox, mu=0.3, step=0.2, patience=1),
    ),
    "scaffold": (Scaffold(), lambda: paper(papers.scaffold)),
    "feddc": (FedDC(alpha=0.3), lambda: paper(papers.feddc, alpha=0.3)),
    "mime-lite": (MimeLite(beta=0.7), lambda: paper(papers.mime, beta=0.7, lite=True)),
}


@STACKS
@TYPES
@pytest.mark.parametrize("case", list(CASES))
def test_an_algorithm_is_its_papers_round_by_round(case: str, dtype: str, stack: int) -> None:
    algorithm, reference = CASES[case]
    found = Run(PROBLEM, START, dtype=dtype, stack=stack, **WORK).weights(algorithm, COHORTS)
    np.testing.assert_allclose(found, reference(), rtol=0, atol=TOLERANCE[dtype])


@STACKS
@TYPES
@pytest.mark.parametrize(
    ("algorithm", "reference"),
    [
        (FedLin(), lambda: paper(papers.fedlin)),
        (Mime(beta=0.7), lambda: paper(papers.mime, beta=0.7, lite=False)),
    ],
    ids=["fedlin", "mime"],
)
def test_a_round_of_two_exchanges_is_two_rounds(
    algorithm: Algorithm, reference: Callable[[], Array], dtype: str, stack: int
) -> None:
    found = Run(PROBLEM, START, dtype=dtype, stack=stack, **WORK).weights(algorithm, TWICE)
    allowed = TOLERANCE[dtype]
    np.testing.assert_allclose(found, every_second(reference()), rtol=0, atol=allowed)


@STACKS
@TYPES
@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_fednova_weighs_clients_by_the_steps_that_they_take(
    rho: float, dtype: str, stack: int
) -> None:
    """A client takes as many steps as it has examples: 1 to 8."""
    run = Run(
        PROBLEM,
        START,
        steps=None,
        batch_size=1,
        modules=[("momentum", {"beta": rho})] if rho else [],
        keep_state=False,
        dtype=dtype,
        stack=stack,
    )
    found = run.weights(FedNova(rho=rho), COHORTS)
    steps = [int(size) for size in PROBLEM.sizes]
    expected = papers.fednova(PROBLEM, START, COHORTS, lrate=0.1, steps=steps, rho=rho)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[dtype])


@STACKS
@TYPES
def test_one_shot_averages_what_clients_have_learnt_alone(dtype: str, stack: int) -> None:
    found = Run(PROBLEM, START, dtype=dtype, stack=stack, **WORK).weights(OneShot(), ALL)
    expected = papers.one_shot(PROBLEM, START, len(ALL), **WORK)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[dtype])


@STACKS
@TYPES
def test_fedsgd_is_gradient_descent_on_all_examples(dtype: str, stack: int) -> None:
    run = Run(PROBLEM, START, server_lrate=0.1, dtype=dtype, stack=stack)
    found = run.weights(FedSGD(), ALL)
    expected = papers.gradient_descent(PROBLEM, START, len(ALL), lrate=0.1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[dtype])


def test_q_fedavg_with_one_full_step_is_q_fedsgd() -> None:
    """Algorithm 1, with the gradient in the place of L (w - v)."""
    found = Run(PROBLEM, START, lrate=0.1, steps=1).weights(QFedAvg(q=1.0), ALL)
    w, expected = START, []
    for cohort in ALL:
        losses = [PROBLEM.loss(k, w) for k in cohort]
        gradients = [PROBLEM.gradient(k, w) for k in cohort]
        pairs = list(zip(losses, gradients, strict=True))
        h = sum(gradient @ gradient + 10 * loss for loss, gradient in pairs)
        w = w - sum(loss * gradient for loss, gradient in pairs) / h
        expected.append(w)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
