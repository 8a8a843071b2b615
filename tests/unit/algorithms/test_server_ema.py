"""The moving average of the server's weights, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from simfl.algorithms import ServerEMA
from simfl.messages import EvaluationChunk
from tests.unit.algorithms.federation import Federation, Linear64, least_squares


def test_the_average_is_evaluated_and_clients_train_the_weights() -> None:
    clients = least_squares()
    made = Federation(ServerEMA(beta=0.75), clients, Linear64(3, [1.0, -1.0, 2.0]))
    plain = Federation(ServerEMA(beta=0.0), clients, Linear64(3, [1.0, -1.0, 2.0]))
    average = made.weights["w"].numpy()
    for _ in range(4):
        made.run()
        weights = plain.run().weights["w"].numpy()
        np.testing.assert_array_equal(made.weights["w"].numpy(), weights)
        average = 0.75 * average + 0.25 * weights
        chunk = EvaluationChunk("clients", tuple((client,) for client in range(len(clients))))
        for federation, evaluated in ((made, average), (plain, weights)):
            found = federation.engine.evaluate(chunk, federation.snapshot)
            for (x, y), sums in zip(clients, found, strict=True):
                expected = ((x.astype(np.float64) @ evaluated - y) ** 2).sum()
                assert sums["loss"][0] == pytest.approx(expected, rel=1e-10)
