"""Arithmetic of steps that algorithms take themselves, and the draws for them."""

from __future__ import annotations

from functools import reduce
from operator import or_

import torch
from torch import Tensor

from simfl.algorithms.algorithm import Local, Number
from simfl.errors import ConfigError
from simfl.seeding import derive_seed, torch_generator, uniforms
from simfl.vector import Vector


def descend(weights: Vector, gradients: Vector, rate: Number) -> Vector:
    """Return weights - rate * gradients; buffers, which have no gradients, stay as they are."""
    return weights | (weights.select(gradients.names) - gradients * rate)


def divisor(local: Local, algorithm: str) -> Number:
    """Return the round's learning rate, for algorithms that divide by it.

    Raises:
        ConfigError: if it is 0.
    """
    if bool((torch.as_tensor(local.lrate) <= 0).any()):
        raise ConfigError(
            f"algorithm {algorithm!r} divides by client.optimizer.lrate, which is 0 in round "
            f"{local.round}; let it stay above 0"
        )
    return local.lrate


def mix(one: Vector, other: Vector, share: Number | Vector) -> Vector:
    """Return share * one + (1 - share) * other; a Vector is a share for each number."""
    return one * share + other * (1 - share)


def cosine_slope(one: Vector, other: Vector) -> Vector:
    """Return the gradient of the squared cosine between two Vectors, by the first."""
    length, others = (v.norm().clamp(min=1e-15) for v in (one, other))
    cosine = (one * other).sum() / (length * others)
    return other * (2 * cosine / (length * others)) - one * (2 * (cosine / length) ** 2)


def onto_simplex(point: Tensor) -> Tensor:
    """Return the closest point [n] whose numbers are at least 0 and add up to n."""
    falling, n = point.sort(descending=True).values, len(point)
    levels = (falling.cumsum(0) - n) / torch.arange(1, n + 1)
    return (point - levels[(falling > levels).sum() - 1]).clamp(min=0)


def seeds_of(local: Local, purpose: str) -> Tensor:
    """Return each client's seed of the round for ``uniform``: int64, 0-d or [C]."""
    ids = local.clients.reshape(-1).tolist()
    seeds = [derive_seed(local.seed, purpose, round=local.round, client=k) for k in ids]
    return torch.tensor(seeds, device=local.clients.device).reshape(local.clients.shape)


def uniform(seeds: Tensor, number: int) -> Tensor:
    """Return each seed's number-th draw from the uniform distribution over [0, 1): float64."""
    drawn = torch.from_numpy(uniforms(seeds.cpu().numpy().reshape(-1), number))
    return drawn.to(seeds.device).reshape(seeds.shape)


def uniform_by_layer(seeds: Tensor, number: int, like: Vector) -> Vector:
    """Return a draw for each layer, at the places of all of its weights, which ``like`` has."""
    layer_of = {name: name.rpartition(".")[0] for name in like}
    layers, zeros = list(dict.fromkeys(layer_of.values())), like.zeros_like()
    drawn = [uniform(seeds, number * len(layers) + index) for index in range(len(layers))]
    parts = [zeros.select([n]) + drawn[layers.index(layer)] for n, layer in layer_of.items()]
    return reduce(or_, parts)


def shuffled(weights: Vector, *, seed: int, client: int) -> Vector:
    """Return the weights with the numbers of each tensor in an order that is the client's."""
    generator = torch_generator(seed, "shuffled weights", client=client)

    def shuffle(tensor: Tensor) -> Tensor:
        order = torch.randperm(tensor.numel(), generator=generator)
        return tensor.flatten()[order.to(tensor.device)].reshape(tensor.shape)

    return weights.map(shuffle)


def begin_own(local: Local, *, own: Vector, begun: Tensor) -> Vector:
    """Return each client's own weights, of those that have not begun the shuffled common ones.

    Args:
        local: a client's round, or a stack's.
        own: what each has kept of its trained weights.
        begun: whether it has begun: 0-d or [C], 0 or 1.
    """
    ids, common = local.clients.reshape(-1).tolist(), local.weights.select(own)
    rows = [
        row if is_begun else shuffled(common, seed=local.seed, client=client)
        for row, is_begun, client in zip(
            own.unstack() if own.stacked else [own], begun.reshape(-1).tolist(), ids, strict=True
        )
    ]
    return Vector.stack(rows) if own.stacked else rows[0]
