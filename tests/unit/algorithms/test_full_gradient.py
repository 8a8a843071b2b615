"""``full_gradient`` is that of the scenario's loss, whatever the loss needs of a client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from least_squares import Run
from papers import LeastSquares
from torch import Tensor

from simfl.algorithms import FedSGD
from simfl.models import Batch, Loss, TorchModel

PROBLEM = LeastSquares.draw([1, 2, 4])
START = np.array([0.5, -1.0, 2.0])


@dataclass(frozen=True)
class TimesCount(Loss):
    """The squared error, times the number of the client's examples."""

    name: ClassVar[str] = "times-count-of-a-test"

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return ((outputs - targets) ** 2).flatten(1).mean(dim=1)

    def of_outputs(self, outputs: Any, batch: Batch, given: Mapping[str, Any]) -> Tensor:
        return super().of_outputs(outputs, batch, given) * given["count"]

    def statistics(self, model: TorchModel, batch: Batch) -> Mapping[str, Tensor]:
        return {"count": torch.tensor(float(len(batch.targets)), dtype=torch.float64)}


@pytest.mark.parametrize("stack", [1, 4])
def test_a_loss_that_needs_a_clients_statistics_has_them(stack: int) -> None:
    """The server's step is the mean, by n_k, of the n_k times the clients' gradients."""
    run = Run(PROBLEM, START, loss=TimesCount(), stack=stack)
    found = run.weights(FedSGD(), [(0, 1, 2)])[-1]
    gradients = [PROBLEM.gradient(k, START) for k in PROBLEM.clients]
    expected = np.average(PROBLEM.sizes[:, None] * gradients, axis=0, weights=PROBLEM.sizes)
    np.testing.assert_allclose(START - found, expected, rtol=0, atol=1e-10)
