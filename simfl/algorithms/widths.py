"""Narrower models, as factors of the weights of the whole one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from simfl.errors import ConfigError
from simfl.vector import Vector


def narrowed(weights: Vector, width: float, *, scaled: bool) -> Vector:
    """Return the factors of the weights that make a narrower model of a whole one: 0 or more.

    Each hidden layer keeps the first ``ceil(width * units)`` of its units. The first layer has all
    inputs, the last one all outputs.

    Args:
        weights: of a chain of layers, in order: matrices and kernels [units, inputs, ...], and
            vectors [units] of biases and norms.
        width: the share of the units.
        scaled: multiply hidden layers by 1/width, as a model of all units has larger sums.

    Raises:
        ConfigError: if the numbers of units and inputs show that it is no such chain.
    """
    matrices = [name for name, tensor in weights.items() if tensor.dim() > 1]
    units = kept = 1
    layer, by, factors = "", 1.0, {}
    for name, tensor in weights.items():
        factor = torch.ones_like(tensor, dtype=torch.float64)
        if tensor.dim() > 1:
            if name != matrices[0]:
                if tensor.shape[1] % units:
                    raise ConfigError(
                        f"algorithm: 'heterofl' is for chains of layers, but {name!r} has "
                        f"{tensor.shape[1]} inputs, and what precedes it {units} units; choose "
                        "another model"
                    )
                factor[:, kept * (tensor.shape[1] // units) :] = 0.0
            units = len(tensor)
            is_last = name == matrices[-1]
            kept = units if is_last else math.ceil(width * units)
            layer, by = name.rpartition(".")[0], 1.0 if is_last or not scaled else 1 / width
        if tensor.dim() and len(tensor) == units:
            factor[kept:] = 0.0
        if name.rpartition(".")[0] == layer:
            factor *= by
        factors[name] = _as(factor, tensor)
    return Vector(factors)


def _as(factor: Tensor, tensor: Tensor) -> Tensor:
    return factor.to(tensor.dtype) if tensor.is_floating_point() else factor
