"""Sums over examples by group, for functions that ``Local.total`` adds up."""

from __future__ import annotations

import torch
from torch import Tensor

from simfl.errors import ConfigError
from simfl.vector import Vector


def one_hot(groups_B: Tensor, num_groups: int, weights_B: Tensor | None) -> Tensor:
    """Return [B, G] each example's weight at the place of its group, and 0 elsewhere.

    Args:
        groups_B: the group of each of B examples, from 0.
        num_groups: G.
        weights_B: None is 1 for all.
    """
    is_in_BG = groups_B[:, None] == torch.arange(num_groups, device=groups_B.device)
    return is_in_BG.float() if weights_B is None else is_in_BG * weights_B[:, None]


def require_weights(weights: Vector, name: str, *, algorithm: str, model: str) -> None:
    """Raise an error unless the model is the one that an algorithm is for.

    Raises:
        ConfigError: with that model's name.
    """
    if name not in weights:
        raise ConfigError(f"algorithm {algorithm!r} is for model.kind: {model}; choose this model")
