"""Dropout whose masks are hashed rather than drawn: the same in a stack and on any device.

Shapes: C clients of a stack, ... a tensor's own axes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.dlpack import from_dlpack

# Odd constants of 64 and of 32 bits, the latter signed. The first is 2^64 over the golden ratio.
_STEP: Final = 0x9E3779B97F4A7C15
_LAYER: Final = 0xD1B54A32D192ED03
_EXAMPLE: Final = 0xA0761D6478BD642F
_POSITION: Final = 0x9E3779B1 - (1 << 32)
_MIX_1: Final = 0x7FEB352D
_MIX_2: Final = 0x846CA68B - (1 << 32)


class Dropout(nn.Module):
    """Sets a fraction of the numbers to zero in training, and scales the rest to compensate.

    ``torch.nn.Dropout`` draws from a generator, and a stack of clients would draw other numbers
    than clients trained one at a time. Here the mask is a hash of (key, position), and the key is
    set before each step; see ``seed_dropout``.

    Args:
        share: the fraction of numbers that are set to zero, from 0 to 1.

    Source: Srivastava et al., 2014, https://jmlr.org/papers/v15/srivastava14a.html; the hash is
    two rounds of ``lowbias32``, https://github.com/skeeto/hash-prospector
    """

    key: Tensor
    """0-d int64; [C] for a stack."""
    place: tuple[int, int]
    """How many examples of the step come before those of the inputs, and how many these are."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.place = (0, 1)
        self.register_buffer("key", torch.zeros((), dtype=torch.int64), persistent=False)

    @property
    def p(self) -> float:
        """The share, as torch's layer calls it; modules with fused attention read it."""
        return self.share

    def extra_repr(self) -> str:
        """Return the text that torch prints with the layer."""
        return f"share={self.share}"

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the inputs, some of them set to zero in training."""
        return self.drop(inputs, self.key)

    def drop(self, inputs: Tensor, key: Tensor) -> Tensor:
        """Apply dropout with a given key: 0-d for inputs of any shape, [C] for inputs [C, ...]."""
        if not self.training or not self.share:
            return inputs
        if self.share == 1.0:
            return inputs * 0.0
        count, (before, size) = inputs.numel() // key.numel(), self.place
        bits = _hashed(key, count, inputs.device, begin=count // size * before)
        is_kept = (bits & 0x7FFFFFFF) >= int(self.share * 2**31)
        factor = is_kept.reshape(inputs.shape).to(inputs.dtype) * (1.0 / (1.0 - self.share))
        return inputs * factor


class _Kept(nn.Identity):
    """In place of a dropout layer that drops nothing."""

    p: Final = 0.0


def dropout_layers(module: nn.Module) -> dict[str, Dropout]:
    """Return a module's dropout layers by name, in the module's order."""
    return {n: layer for n, layer in module.named_modules() if isinstance(layer, Dropout)}


def with_own_dropout(module: nn.Module) -> nn.Module:
    """Replace torch's dropout layers by layers of this module, in place, and return the module.

    Those that drop nothing become identities.
    """
    for layer in list(module.modules()):
        for name, child in layer.named_children():
            if type(child) is nn.Dropout:
                setattr(layer, name, Dropout(child.p) if child.p else _Kept())
    return module


def example_keys(layers: Mapping[str, Dropout], num_examples: int) -> dict[str, Tensor]:
    """Return keys for the examples of a batch, [B], by the name of the layer's buffer.

    [C, B] for a stack. They are for computing one example at a time, where the layer's own key
    would drop the same numbers of all examples.
    """
    steps = torch.tensor([_signed(_EXAMPLE * (b + 1)) for b in range(num_examples)])
    return {
        f"{name}.key": layer.key.unsqueeze(-1) + steps.to(layer.key.device)
        for name, layer in layers.items()
    }


def seed_dropout(layers: Iterable[Dropout], keys: Tensor, step: int) -> None:
    """Set each layer's key for a step.

    Args:
        layers: in the module's order.
        keys: int64, a client's own seed of the round; [C] for a stack.
        step: which step of the round, from 0.
    """
    for index, layer in enumerate(layers):
        layer.key = keys + _signed(_STEP * (step + 1) + _LAYER * index)


@contextmanager
def in_micro_batch(
    layers: Iterable[Dropout], before: int, size: int, *, by_example: bool
) -> Iterator[None]:
    """Let layers drop of some examples of a step what they would drop of them in its whole batch.

    Args:
        layers: that have the step's key.
        before: how many of the step's examples come before.
        size: how many there are.
        by_example: whether each example has a key of ``example_keys``.
    """
    found = [(layer, layer.key) for layer in layers]
    for layer, key in found:
        if by_example:
            layer.key = key + _signed(_EXAMPLE * before)
        else:
            layer.place = (before, size)
    try:
        yield
    finally:
        for layer, key in found:
            layer.key, layer.place = key, (0, 1)


def _signed(number: int) -> int:
    """Return the number modulo 2^64, from -2^63 on."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def _hashed(key: Tensor, count: int, device: torch.device, *, begin: int = 0) -> Tensor:
    """Return ``count`` hashes of 32 bits for each key, from a position on: [count], [C, count]."""
    low, high = _halves(key.unsqueeze(-1))
    if begin:
        low = low + ((begin * _POSITION + (1 << 31)) % (1 << 32) - (1 << 31))
    bits = _mixed(_positions(count, device) + low)
    return _mixed(bits + high)


def _halves(key: Tensor) -> tuple[Tensor, Tensor]:
    # Converted by hand, since casts of numbers out of range differ between devices.
    low = ((key & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000
    return low.to(torch.int32), (key >> 32).to(torch.int32)


def _mixed(bits: Tensor) -> Tensor:
    bits = bits ^ ((bits >> 16) & 0xFFFF)
    bits = bits * _MIX_1
    bits = bits ^ ((bits >> 15) & 0x1FFFF)
    bits = bits * _MIX_2
    return bits ^ ((bits >> 16) & 0xFFFF)


@lru_cache(maxsize=32)
def _cpu_positions(count: int) -> Tensor:
    # A tensor that torch makes within the transforms of torch.func must not outlive them, so it is
    # made by numpy; from_numpy would wrap it, too.
    positions: Tensor = from_dlpack(np.arange(count, dtype=np.int32) * np.int32(_POSITION))
    return positions


def _positions(count: int, device: torch.device) -> Tensor:
    if device.type == "cpu":
        return _cpu_positions(count)
    return torch.arange(count, dtype=torch.int32, device=device) * _POSITION
