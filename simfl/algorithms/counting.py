"""Sums over examples by group, for functions that ``Local.total`` adds up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from simfl.algorithms.algorithm import Local
from simfl.errors import ConfigError
from simfl.models import Batch, ModelFunction
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


def class_means(local: Local, weights: Vector, *, layer: str) -> tuple[Tensor, Tensor]:
    """Return the mean input of a layer for each of V classes, and whether the client has it: 0, 1.

    Args:
        local: a client's round, or that of a stack of C clients.
        weights: of the model.
        layer: that of F inputs. The model's outputs are the classes' logits.

    Returns:
        [V, F] and [V]; [C, V, F] and [C, V] of a stack.
    """

    def count(model: ModelFunction, batch: Batch, weights: Any) -> dict[str, Tensor]:
        outputs, z_BF = model.features(weights, batch.inputs, layer)
        by_BV = one_hot(batch.targets, outputs.shape[1], batch.sample_weights)
        return {"sum": by_BV.to(z_BF.dtype).T @ z_BF, "count": by_BV.sum(dim=0)}

    found = local.total(count, weights)
    has = (found["count"] > 0).to(found["sum"].dtype)
    return found["sum"] / found["count"].clamp(min=1)[..., None], has
