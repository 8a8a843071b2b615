"""Averages of the server's weights over rounds, which are evaluated instead of them, by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from simfl.algorithms import Algorithm, FedExP, ServerEMA
from simfl.messages import EvaluationChunk
from simfl.record import PERSONAL
from tests.unit.algorithms.federation import Federation, Linear64, least_squares

CLIENTS = least_squares()
Average = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(the average before, the weights before, the weights) -> the average."""


def losses(made: Federation, *own: str) -> list[float]:
    chunk = EvaluationChunk("clients", tuple((k,) for k in range(len(CLIENTS))), own=own)
    return [sums["loss"][0] for sums in made.engine.evaluate(chunk, made.snapshot)]


@pytest.mark.parametrize(
    ("algorithm", "average"),
    [
        (ServerEMA(beta=0.75), lambda a, _, w: 0.75 * a + 0.25 * w),
        (ServerEMA(beta=0.0), lambda a, _, w: w),
        (FedExP(), lambda a, before, w: (before + w) / 2),
    ],
    ids=["a quarter", "the last", "of the last two"],
)
def test_the_average_is_evaluated_and_clients_train_the_weights(
    algorithm: Algorithm, average: Average
) -> None:
    made = Federation(algorithm, CLIENTS, Linear64(3, [1.0, -1.0, 2.0]))
    before = evaluated = made.weights["w"].numpy()
    for _ in range(4):
        w = made.run().weights["w"].numpy()
        evaluated = average(evaluated, before, w)
        expected = [((x.astype(np.float64) @ evaluated - y) ** 2).sum() for x, y in CLIENTS]
        assert losses(made) == pytest.approx(expected, rel=1e-10)
        assert losses(made, PERSONAL) == pytest.approx(expected, rel=1e-10)
        before = w
