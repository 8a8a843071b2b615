"""Where algorithms end on least squares with full batches, against closed forms.

With K steps of rate r, a client of A_k and its own optimum x_k goes from w to w - S_k (w - x_k),
where S_k = I - (I - r A_k)^K.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from least_squares import Run
from papers import Array, LeastSquares

from simfl.algorithms import (
    AFL,
    Algorithm,
    FedAvg,
    FedDC,
    FedDyn,
    FedLin,
    FedNova,
    FedSGD,
    LocalOnly,
    Mime,
    MimeLite,
    OneShot,
    QFedAvg,
    Scaffold,
)

PROBLEM = LeastSquares.draw([1] * 6)
START = np.array([0.5, -1.0, 2.0])
ALL = tuple(range(6))
OPTIMUM = PROBLEM.optimum()
"""Of the unweighted mean of the clients' losses."""
OWN = np.array([np.linalg.solve(A, b) for A, b in zip(PROBLEM.A, PROBLEM.b, strict=True)])
"""[N, D] the clients' own optima."""


def end(algorithm: Algorithm, rounds: int, *, per_round: int = 6, **options: Any) -> Array:
    """Return the weights after so many rounds, of all clients or of random cohorts."""
    rng = np.random.default_rng(1)
    cohorts = [tuple(rng.permutation(6)[:per_round].tolist()) for _ in range(rounds)]
    return Run(PROBLEM, START, stack=8, **options).weights(algorithm, cohorts)[-1]


def moved(steps: Sequence[int], lrate: float) -> Array:
    """Return the S_k: [N, D, D]."""
    eye = np.eye(3)
    pairs = zip(PROBLEM.A, steps, strict=True)
    return np.array([eye - np.linalg.matrix_power(eye - lrate * A, K) for A, K in pairs])


def balance(by: Array) -> Array:
    """Return w with the sum of the by_k (w - x_k) = 0."""
    return np.linalg.solve(by.sum(axis=0), np.einsum("kij,kj->i", by, OWN))


def close(found: Array, expected: Array, allowed: float = 1e-10) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=allowed)


# -- those with a bias --------------------------------------------------------------------------


def test_fedavg_ends_where_what_clients_move_cancels_out() -> None:
    found = end(FedAvg(), 60)
    close(found, balance(moved([5] * 6, 0.1)))
    assert np.linalg.norm(found - OPTIMUM) > 0.01


def test_mime_lite_without_momentum_ends_where_fedavg_does() -> None:
    close(end(MimeLite(beta=0.0), 60), balance(moved([5] * 6, 0.1)))


def test_fedavg_prefers_clients_with_more_steps_and_fednova_does_not() -> None:
    """Of 1 to 8 steps a client, as many as it has examples. With short steps the first ends at
    the optimum for weights n_k t_k, the second at that for n_k (the paper's section 3)."""
    problem = LeastSquares.draw([1, 2, 3, 4, 5, 8])
    work: dict[str, Any] = {"lrate": 0.05, "steps": None, "batch_size": 1, "stack": 8}
    run = Run(problem, problem.optimum(problem.sizes), **work)
    steps = [int(size) for size in problem.sizes]
    by = problem.sizes[:, None, None] * moved(steps, 0.05)
    avg, nova = (run.weights(algorithm, [ALL] * 100)[-1] for algorithm in (FedAvg(), FedNova()))
    close(avg, balance(by))
    close(nova, balance(by / np.array(steps)[:, None, None]))
    off_avg, off_nova = (np.linalg.norm(w - problem.optimum(problem.sizes)) for w in (avg, nova))
    assert off_nova < off_avg / 3


# -- those without -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "rounds", "options"),
    [
        (FedDyn(alpha=1.0), 80, {}),
        (FedDyn(alpha=3.0), 100, {"per_round": 3, "lrate": 0.2, "steps": 15}),
        (Scaffold(), 60, {}),
        (Scaffold(), 80, {"per_round": 3}),
        (FedDC(alpha=0.3), 80, {}),
        (FedDC(alpha=0.3), 100, {"per_round": 3}),
        (FedLin(), 100, {"lrate": 0.2}),
        (Mime(beta=0.0), 100, {"lrate": 0.2}),
        (FedSGD(), 60, {"server_lrate": 0.4}),
    ],
    ids=lambda value: str(value) if isinstance(value, Algorithm | dict) else None,
)
def test_an_algorithm_ends_at_the_optimum(
    algorithm: Algorithm, rounds: int, options: dict[str, Any]
) -> None:
    """From all clients, or from three of six."""
    close(end(algorithm, rounds, **options), OPTIMUM)


@pytest.mark.parametrize("algorithm", [FedDyn(alpha=1.0), Scaffold(), FedDC(alpha=0.3)], ids=str)
def test_in_float32_it_ends_there_up_to_rounding(algorithm: Algorithm) -> None:
    close(end(algorithm, 60, dtype="float32"), OPTIMUM, 1e-6)


# -- fairness -----------------------------------------------------------------------------------


@pytest.mark.parametrize("q", [0.5, 1.0, 2.0])
def test_q_fedavg_ends_where_its_objective_is_stationary(q: float) -> None:
    """The gradient of the sum of F_k^(q+1) / (q+1), with one step a round."""
    w = end(QFedAvg(q=q), 120, lrate=0.2, steps=1)
    terms = [PROBLEM.loss(k, w) ** q * PROBLEM.gradient(k, w) for k in ALL]
    close(np.sum(terms, axis=0), np.zeros(3))
    assert np.linalg.norm(w - OPTIMUM) > 0.01


def test_afl_ends_at_the_best_worst_case() -> None:
    """A saddle point: the mixture's gradient is 0, and only the clients of the largest loss are in
    it. The losses are convex, so no weights have a smaller largest loss."""
    problem = LeastSquares.draw([1] * 4)
    run = Run(problem, START, lrate=0.3, steps=1, stack=4)
    w = run.weights(AFL(lambda_lrate=0.05), [tuple(range(4))] * 150)[-1]
    mixture = run.server_state()["mixture"].numpy() / 4
    losses = np.array([problem.loss(k, w) for k in range(4)])
    close(sum(share * problem.gradient(k, w) for k, share in enumerate(mixture)), np.zeros(3))
    assert mixture.sum() == pytest.approx(1.0)
    close(losses[mixture > 0], losses.max())
    assert (mixture > 0).sum() == 2


# -- baselines ------------------------------------------------------------------------------------


def test_one_shot_ends_at_the_mean_of_the_clients_own_optima() -> None:
    close(end(OneShot(), 80), OWN.mean(axis=0))


def test_clients_that_learn_alone_end_at_their_own_optima_and_the_server_stays() -> None:
    run = Run(PROBLEM, START, stack=8)
    close(run.weights(LocalOnly(), [ALL] * 100)[-1], START)
    close(run.kept("v"), OWN)


# -- with weights of the clients' own --------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "rounds"),
    [
        (FedDyn(alpha=1.0), 80),
        (Scaffold(), 170),
        (FedDC(alpha=0.3), 80),
        (FedLin(), 110),
        (Mime(beta=0.0), 110),
    ],
    ids=lambda value: str(value) if isinstance(value, Algorithm) else None,
)
def test_with_personal_biases_it_ends_at_the_joint_optimum(
    algorithm: Algorithm, rounds: int
) -> None:
    """Of the common weights and six biases: least squares with a column for each client."""
    run = Run(PROBLEM, START, lrate=0.3, stack=8, has_bias=True)
    found = run.weights(algorithm, [ALL] * rounds)[-1]
    rows = PROBLEM.targets.shape[1]
    design = np.hstack([np.concatenate(PROBLEM.inputs), np.kron(np.eye(6), np.ones((rows, 1)))])
    close(found, np.linalg.lstsq(design, PROBLEM.targets.flatten(), rcond=None)[0][:3])


def test_new_clients_of_a_stack_begin_with_biases_of_their_own() -> None:
    """Client 5 is in each cohort, the others are new in one of them."""
    cohorts = [(5, 0), (5, 1, 2), (5, 3, 4)]
    single, stacked = (
        Run(PROBLEM, START, stack=stack, has_bias=True).weights(OneShot(), cohorts)
        for stack in (1, 4)
    )
    close(stacked, single)
