"""FLoRA: the server adds the mean product of low-rank adapters to the layers below them.

Client:  add what the server has sent to the base; begin with new adapters, A_k random and B_k = 0,
         of r_k rows and columns; train them, and what else is trained
Send:    B_k, A_k and the rest
Server:  stack the factors, [p_1 B_1, ..., p_K B_K] and [A_1; ...; A_K], whose product is the mean
         of the B_k A_k (equation 5), and send it; the mean of the rest

The base changes in each round. So the layers with adapters are shared weights here, to which the
server adds the products itself: it sends these layers, of the size O I, and not K adapters of the
size r (O + I), since a client that has missed rounds would need the adapters of these as well.

Source: Wang et al., 2024, https://arxiv.org/abs/2409.05976
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from simfl.algorithms.algorithm import Local, ServerSide, State, Total, Update
from simfl.algorithms.low_rank import (
    OfAdapters,
    adapter_sums,
    factors,
    layer_of,
    mean_of_rest,
    mean_product,
    require_adapters,
    train_adapters,
)
from simfl.component import Positive
from simfl.errors import ConfigError
from simfl.seeding import torch_generator
from simfl.vector import Vector


@dataclass(frozen=True)
class FLoRA(OfAdapters):
    """Train new adapters in each round, and add the mean of their products to the base."""

    name: ClassVar[str] = "flora"
    scale: Positive | None = None
    """What a layer multiplies B A by: alpha / rank. Null: as the model has it."""

    def for_model(self, module: nn.Module, shared: Collection[str]) -> FLoRA:
        """Return the algorithm with the model's scale; refuse models without adapters."""
        pairs = require_adapters(self.name, module, shared, self.ranks)
        layers: dict[str, Any] = dict(module.named_modules())
        scales: set[float] = set()
        for a, b in pairs.items():
            name = layer_of(a)
            _require_layer(name, layers[name], shared)
            scales |= {*getattr(layers[name], "scaling", {}).values()}
            if bool(layers[b.removesuffix(".weight")].weight.any()):
                raise ConfigError(
                    f"{self.name!r} begins with new adapters, but {b!r} is not 0; set model.lora "
                    "instead of model.adapter"
                )
        if self.scale is None and len(scales) != 1:
            raise ConfigError(f"{self.name!r} needs one scale, but the model has {sorted(scales)}")
        return self if self.scale else replace(self, scale=float(scales.pop()))

    def client(self, local: Local) -> tuple[Update, State]:
        """Train new adapters on the base as the server has it, and send them."""
        bases = {_base(a) for a in factors(local.weights)}
        only = [name for name in local.trainable if name not in bases]
        start = local.weights | _new_adapters(local)
        end = train_adapters(local, start, self.ranks, only=only)
        return Update(sums=adapter_sums(local, end.without(bases))), {}

    def server(self, total: Total, state: State, here: ServerSide) -> tuple[Vector, State]:
        """Add the mean products to the base; adapters of the server stay as they were, with B 0."""
        assert self.scale is not None, "for_model() sets it"
        gradient = dict(mean_of_rest(total))
        for a, b in factors(here.weights).items():
            left, right = mean_product(total, a, b)
            dtype = torch.promote_types(here.weights[_base(a)].dtype, torch.float32)
            gradient[_base(a)] = (left @ right * -self.scale).to(dtype)
        return Vector(gradient), state


def _base(factor: str) -> str:
    return f"{layer_of(factor)}.base_layer.weight"


def _require_layer(name: str, layer: Any, shared: Collection[str]) -> None:
    """Check that products can be added to a layer.

    Raises:
        ConfigError: if not.
    """
    if getattr(layer, "fan_in_fan_out", False):
        raise ConfigError(f"'flora' adds to weights [outputs, inputs]; those of {name!r} are not")
    if (weight := f"{name}.base_layer.weight") not in shared:
        raise ConfigError(
            f"'flora' adds to {weight!r}, which is not trained and shared; set model.train to "
            "['*lora_*', '*.base_layer.weight'] and what else is to be trained"
        )


def _new_adapters(local: Local) -> Vector:
    """Return A random, as peft draws it, and B 0: of one client, or of each of a stack."""
    each = [_drawn(local, client) for client in local.clients.reshape(-1).tolist()]
    return Vector.stack(each) if local.clients.dim() else each[0]


def _drawn(local: Local, client: int) -> Vector:
    generator = torch_generator(local.seed, "flora", round=local.round, client=client)
    new: dict[str, Tensor] = {}
    for a, b in factors(local.weights).items():
        A, B = local.weights[a], local.weights[b]
        drawn = torch.rand(A.shape, generator=generator, dtype=torch.float64)
        bound = A.shape[1] ** -0.5
        new |= {a: ((2 * drawn - 1) * bound).to(A), b: torch.zeros_like(B)}
    return Vector(new)
