"""Several models in the server's state, as a stack of M rows, of which each client trains one.

Shapes: M models, C clients of a stack, ... a tensor's own axes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simfl.vector import Keyed, Vector


def pick(models_M: Vector, which: Tensor) -> Vector:
    """Return the models with these numbers.

    Args:
        models_M: the models.
        which: int64, 0-d for one client; [C] for a stack, and then the result is a stack.
    """
    return Vector({n: tensor[which] for n, tensor in models_M.items()}, stacked=which.dim() > 0)


def shares(which: Tensor, num_models: int, by: Tensor) -> Tensor:
    """Return each client's number at the place of its model, and 0 elsewhere: [M] or [C, M]."""
    places = torch.arange(num_models, device=which.device)
    return (which[..., None] == places) * by[..., None]


def by_model(
    delta: Vector, which: Tensor, *, num_models: int, weight: Tensor | None = None
) -> dict[str, Keyed | Tensor]:
    """Return the sums ``moved`` and ``by`` of clients that have trained one model each.

    Args:
        delta: of one client, or a stack.
        which: the model's number: int64, 0-d or [C].
        num_models: M.
        weight: each client's: 0-d or [C]; None: 1.

    Returns:
        The weighted delta under the model's number, and the weight at its place, [M] or [C, M].
    """
    weight = torch.ones(which.shape, device=which.device) if weight is None else weight
    return {"moved": Keyed(which, delta * weight), "by": shares(which, num_models, weight)}


def moved(models_M: Vector, deltas: Keyed, weights_M: Tensor) -> Vector:
    """Return the models after the mean of their clients' deltas; without clients, as before.

    Args:
        models_M: before.
        deltas: the sums of the weighted deltas, by model: ``moved`` of ``by_model``.
        weights_M: the sums of the weights: ``by`` of it.
    """
    rows = torch.tensor(deltas.keys)
    means = deltas.values / torch.where(weights_M > 0, weights_M, 1.0)[rows]
    after = {
        name: models.index_copy(0, rows, _as(models[rows] - means[name], models.dtype))
        for name, models in models_M.items()
    }
    return Vector(after, stacked=True)


def mixed(models_M: Vector, weights_NM: Tensor) -> Vector:
    """Return N weighted averages of the models; rows of the weights sum to 1."""
    wide = weights_NM.double()
    return models_M.map(lambda t: _as(torch.tensordot(wide, t.double(), dims=1), t.dtype))


def weighted_average(models_M: Vector, weights_M: Tensor | None = None) -> Vector:
    """Return the average of the models, weighted by any numbers; None: their mean."""
    if weights_M is None:
        weights_M = torch.ones(len(models_M.tensors[0]))
    return mixed(models_M, (weights_M.double() / weights_M.sum())[None]).unstack()[0]


def _as(wide: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the numbers as a dtype; integers, such as counts of batches, are rounded."""
    return (wide if dtype.is_floating_point else wide.round()).to(dtype)
