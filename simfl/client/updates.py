"""What a client's steps amount to: its delta, its loss, and whether they are numbers at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from simfl.models.model import MetricSums
from simfl.vector import Vector

__all__ = ["add_metric_sums", "is_finite", "sum_losses"]


def is_finite(delta: Vector, aux: dict[str, dict[str, Any]]) -> bool:
    """Say whether no number of what a client sends is NaN or infinite."""
    shared = [value for entries in aux.values() for value in entries.values()]
    vectors = [delta, *(value for value in shared if isinstance(value, Vector))]
    return all(bool(vector.is_finite()) for vector in vectors)


def sum_losses(losses: list[Tensor], sizes: list[int]) -> float:
    """Return the sum over all steps of a batch's mean loss times its size."""
    if not losses:
        return 0.0
    # One transfer for all steps; float64, as the sum of many.
    losses_T = torch.stack(losses).double().cpu()
    return float((losses_T * torch.tensor(sizes, dtype=torch.float64)).sum())


def add_metric_sums(parts: Sequence[MetricSums]) -> MetricSums:
    """Add up metric sums, in order."""
    names = parts[0] if parts else ()
    return {
        name: (sum(part[name][0] for part in parts), sum(part[name][1] for part in parts))
        for name in names
    }
