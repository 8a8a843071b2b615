"""Federated histograms: the share of the examples that each bin has, feature by feature.

Client:  count its examples in each bin
Sum:     the counts
Server:  their shares in all examples of the round

With all clients in a round, they are those of the pooled examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from simfl.algorithms.algorithm import NO_STEPS, Algorithm, Local, ServerSide, State, Total, Update
from simfl.algorithms.counting import one_hot, require_weights
from simfl.models import Batch, ModelFunction
from simfl.vector import Vector


@dataclass(frozen=True)
class Histograms(Algorithm):
    """Count all clients' examples in the bins of ``model.kind: histogram``."""

    name: ClassVar[str] = "histograms"
    weighted_by: ClassVar[str] = "examples"
    uses_optimizer: ClassVar[bool] = False
    ignores: ClassVar[tuple[str, ...]] = (*NO_STEPS, "client.precision")
    sends_delta: ClassVar[bool] = False

    def client(self, local: Local) -> tuple[Update, State]:
        """Count the examples in each bin."""
        require_weights(local.weights, "bin_shares", algorithm=self.name, model="histogram")
        return Update(sums=local.total(self.count, local.weights)), {}

    def count(self, model: ModelFunction, batch: Batch, weights: Any) -> dict[str, Tensor]:
        """Return how many examples each bin [D, H] has."""
        module: Any = model.model.module
        bins_BD = module.bins(batch.inputs)
        weights_BD = batch.sample_weights[:, None].expand_as(bins_BD)  # type: ignore[index]
        num_bins = weights["bin_shares"].shape[1]
        counted = one_hot(bins_BD.flatten(), num_bins, weights_BD.flatten())
        return {"counts": counted.reshape(*bins_BD.shape, num_bins).sum(dim=0)}

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Return how far the shares move."""
        counts_DH = total.sums["counts"].to(here.weights["bin_shares"].dtype)
        shares = counts_DH / counts_DH.sum(dim=1, keepdim=True).clamp(min=1)
        return here.weights - Vector({"bin_shares": shares}), state
