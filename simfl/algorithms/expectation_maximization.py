"""Federated expectation maximization of a mixture of Gaussians with diagonal covariances.

Client:  r_bk = the share of Gaussian k in the density at example b     (E step)
Sum:     over the examples, r, r x and r x²
Server:  shares, means and variances are those of the sums               (M step)

With all clients in each round, it is EM on the pooled examples.

Source: Dempster, Laird and Rubin, 1977, https://www.jstor.org/stable/2984875
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from simfl.algorithms.algorithm import NO_STEPS, Algorithm, Local, ServerSide, State, Total, Update
from simfl.algorithms.counting import require_weights
from simfl.component import NonNegative
from simfl.models import Batch, ModelFunction
from simfl.models.unsupervised import flat, joint_log_densities
from simfl.vector import Vector


@dataclass(frozen=True)
class ExpectationMaximization(Algorithm):
    """Take steps of EM with ``model.kind: gaussian-mixture``, over all clients' examples."""

    name: ClassVar[str] = "em"
    weighted_by: ClassVar[str] = "examples"
    uses_optimizer: ClassVar[bool] = False
    ignores: ClassVar[tuple[str, ...]] = (*NO_STEPS, "client.precision")
    sends_delta: ClassVar[bool] = False
    floor: NonNegative = 1e-6
    """Added to variances, so that none becomes 0."""

    def client(self, local: Local) -> tuple[Update, State]:
        """Add up what the M step needs."""
        require_weights(local.weights, "variances", algorithm=self.name, model="gaussian-mixture")
        return Update(sums=local.total(self.expect, local.weights)), {}

    def expect(self, model: ModelFunction, batch: Batch, weights: Any) -> dict[str, Tensor]:
        """Return the sums of the responsibilities, of the examples and of their squares."""
        x_BD: Tensor = flat(batch.inputs, weights["means"])  # type: ignore[arg-type]
        mixture = (weights[name] for name in ("shares", "means", "variances"))
        r_BK = joint_log_densities(x_BD, *mixture).softmax(dim=1).double()
        if batch.sample_weights is not None:
            r_BK = r_BK * batch.sample_weights[:, None]
        x_BD = x_BD.double()  # variances are small differences of sums, lost in float32
        return {"r": r_BK.sum(dim=0), "x": r_BK.T @ x_BD, "square": r_BK.T @ x_BD.square()}

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Return how far the mixture moves."""
        r_K = total.sums["r"].clamp(min=1e-12)
        means = total.sums["x"] / r_K[:, None]
        variances = total.sums["square"] / r_K[:, None] - means.square() + self.floor
        new = {"shares": r_K / r_K.sum(), "means": means, "variances": variances}
        return here.weights - Vector(new).select(here.weights), state
