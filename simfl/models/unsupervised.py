"""Models of inputs alone: centres of clusters, mixtures of Gaussians, histograms.

Their outputs are the losses of the examples, for the loss ``output``; targets are not used.

Shapes: B examples, D numbers of an input, K clusters, H bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from simfl.component import Count, Positive
from simfl.errors import ConfigError
from simfl.models.spec import DataShape, ModelSpec, num_features


def squared_distances(inputs: Tensor, centers_KD: Tensor) -> Tensor:
    """Return [B, K] the squared distance of each input to each centre."""
    return (flat(inputs, centers_KD)[:, None] - centers_KD).square().sum(dim=-1)


def joint_log_densities(
    inputs: Tensor, shares_K: Tensor, means_KD: Tensor, variances_KD: Tensor
) -> Tensor:
    """Return [B, K] the log of share times density of each Gaussian, with diagonal covariances."""
    apart_BKD = flat(inputs, means_KD)[:, None] - means_KD
    exponents_BKD = apart_BKD.square() / variances_KD + (2 * torch.pi * variances_KD).log()
    return shares_K.log() - exponents_BKD.sum(dim=-1) / 2


def flat(inputs: Tensor, like: Tensor) -> Tensor:
    """Return inputs as [B, D], in the dtype of the weights."""
    return inputs.flatten(1).to(like.dtype)


class _Centers(nn.Module):
    def __init__(self, centers_KD: Tensor) -> None:
        super().__init__()
        self.centers = nn.Parameter(centers_KD)

    def forward(self, inputs: Tensor) -> Tensor:
        return squared_distances(inputs, self.centers).amin(dim=1)


class _Mixture(nn.Module):
    def __init__(self, means_KD: Tensor) -> None:
        super().__init__()
        num_clusters = len(means_KD)
        self.shares = nn.Parameter(torch.full((num_clusters,), 1 / num_clusters))
        self.means = nn.Parameter(means_KD)
        self.variances = nn.Parameter(torch.ones_like(means_KD))

    def forward(self, inputs: Tensor) -> Tensor:
        joint_BK = joint_log_densities(inputs, self.shares, self.means, self.variances)
        return -joint_BK.logsumexp(dim=1)


class _Histogram(nn.Module):
    def __init__(self, shares_DH: Tensor, low: float, high: float) -> None:
        super().__init__()
        self.bin_shares = nn.Parameter(shares_DH)
        self.low, self.high = low, high

    def bins(self, inputs: Tensor) -> Tensor:
        """Return [B, D] the bin of each number, from 0; the outer ones have those beyond."""
        num_bins = self.bin_shares.shape[1]
        place_BD = (inputs.flatten(1) - self.low) / (self.high - self.low) * num_bins
        return place_BD.floor().long().clamp(0, num_bins - 1)

    def forward(self, inputs: Tensor) -> Tensor:
        features_D = torch.arange(len(self.bin_shares), device=inputs.device)
        density = self.bin_shares * (self.bin_shares.shape[1] / (self.high - self.low))
        # A number in a bin that nobody had has a density of at least 1e-12.
        return -density[features_D, self.bins(inputs)].clamp(min=1e-12).log().sum(dim=1)


@dataclass(frozen=True)
class Centers(ModelSpec):
    """The centres of clusters; an example's loss is its squared distance to the nearest."""

    name: ClassVar[str] = "centers"
    clusters: Count = 8
    """The number of centres."""
    spread: Positive = 1.0
    """The standard deviation of the initial centres, which are drawn around 0."""

    def build(self, shape: DataShape) -> nn.Module:
        """Build the module."""
        num_inputs = num_features(self.name, shape)
        return _Centers(torch.randn(self.clusters, num_inputs) * self.spread)


@dataclass(frozen=True)
class GaussianMixture(ModelSpec):
    """A mixture of Gaussians with diagonal covariances; an example's loss is -log likelihood."""

    name: ClassVar[str] = "gaussian-mixture"
    clusters: Count = 8
    """The number of Gaussians."""
    spread: Positive = 1.0
    """The standard deviation of the initial means, which are drawn around 0. Variances start at 1,
    and the Gaussians' shares are equal."""

    def build(self, shape: DataShape) -> nn.Module:
        """Build the module."""
        num_inputs = num_features(self.name, shape)
        return _Mixture(torch.randn(self.clusters, num_inputs) * self.spread)


@dataclass(frozen=True)
class Histogram(ModelSpec):
    """The share of examples in each bin, by feature; an example's loss is -log of its density.

    Features are taken for independent.
    """

    name: ClassVar[str] = "histogram"
    bins: Count = 10
    """The number of bins of each feature."""
    low: float = 0.0
    """Where the first bin begins; smaller numbers are counted in it."""
    high: float = 1.0
    """Where the last bin ends; larger numbers are counted in it."""

    def __post_init__(self) -> None:
        """Check the range."""
        super().__post_init__()
        if not self.low < self.high:
            raise ConfigError(f"histogram: low is {self.low}, but must be below high, {self.high}")

    def build(self, shape: DataShape) -> nn.Module:
        """Build the module."""
        shares = torch.full((num_features(self.name, shape), self.bins), 1 / self.bins)
        return _Histogram(shares, self.low, self.high)
