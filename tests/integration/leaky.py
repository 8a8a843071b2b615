"""A module whose weights and buffers are of many types, and that holds more than these."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Leaky(nn.Module):
    """In bfloat16; centres its inputs by a running mean that no server sends out, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10).bfloat16()
        self.register_buffer("mean", torch.zeros(64), persistent=False)
        self.register_buffer("drawn", torch.randn(64), persistent=False)
        self.register_buffer("mask", torch.ones(64, dtype=torch.bool))
        self.register_buffer("hidden", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("count", torch.tensor(2**62 + 1))
        self.calls = 0
        self.seen: list[Tensor] = []
        self.mean: Tensor
        self.count: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, which depend on all that is held."""
        inputs = images.flatten(1) * self.mask
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * inputs.mean(dim=0)
            self.count += 1
        self.calls += 1
        self.seen = [*self.seen[-2:], inputs.mean()]
        shift = self.mean + 0.1 * self.drawn + torch.stack(self.seen).mean()
        logits: Tensor = self.linear((inputs - shift).bfloat16()).float()
        return logits * (1 + 0.1 * (self.calls % 7))
