"""The weights of some layers, for algorithms that treat them differently."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from simfl.errors import ConfigError
from simfl.vector import Vector


def in_layers(weights: Vector, layers: Iterable[str]) -> Vector:
    """Return the weights and buffers of some layers.

    Args:
        weights: a model's, by name.
        layers: names of layers or of weights; ``*`` stands for any characters.

    Raises:
        ConfigError: if a layer has no weights among these, or nothing is left beside them.

    >>> import torch
    >>> in_layers(Vector({"body.weight": torch.ones(1), "head.bias": torch.ones(1)}), ["head"])
    Vector(head.bias=[1.0])
    """
    chosen: set[str] = set()
    for layer in layers:
        found = {n for n in weights if fnmatchcase(n, layer) or fnmatchcase(n, f"{layer}.*")}
        if not found:
            known = ", ".join(repr(n) for n in dict.fromkeys(n.rpartition(".")[0] for n in weights))
            raise ConfigError(
                f"no weights in layer {layer!r}; the layers are {known}, without model.personal "
                "and model.fixed"
            )
        chosen |= found
    if len(chosen) == len(weights):
        raise ConfigError(f"{', '.join(layers)} is the whole model; name a part of it")
    return weights.select(name for name in weights if name in chosen)
