"""The models of the workloads in plain PyTorch, with the names of simfl's parameters.

Other frameworks' environments, which have no simfl, build them too.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention
from workloads import CLASSES, Workload

__all__ = ["LeanAttention", "build_module", "make_transformer"]


def build_module(workload: Workload) -> nn.Module:
    """Make a workload's model; its weights come from a recipe."""
    kind = workload.model["kind"]
    if kind == "python":
        return make_transformer()
    if kind == "char-lstm":
        return _CharLSTM(workload.model["vocabulary"], hidden=workload.model["hidden"])
    chains = {"mlp": _mlp, "cnn-32": _cnn_32, "cnn-28": _cnn_28, "resnet": _resnet}
    return nn.Sequential(OrderedDict(chains[kind](workload)))


def make_transformer(vocabulary: int = 80, positions: int = 32, dim: int = 64) -> nn.Module:
    """Make a small transformer that predicts the next token."""
    return _Transformer(vocabulary, positions, dim)


class _Transformer(nn.Module):
    """Two of torch's layers of an encoder, without dropout."""

    def __init__(self, vocabulary: int, positions: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim)
        self.positions = nn.Parameter(torch.zeros(positions, dim))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, 4, 2 * dim, dropout=0.0, batch_first=True)
            for _ in range(2)
        )
        self.output = nn.Linear(dim, vocabulary)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden_BTD = self.embedding(tokens_BT) + self.positions
        for block in self.blocks:
            hidden_BTD = block(hidden_BTD)
        logits: Tensor = self.output(hidden_BTD[:, -1])
        return logits


class LeanAttention(nn.MultiheadAttention):
    """Attends to its own queries, batch first, and copies nothing for that."""

    def forward(self, query: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """Map [B, T, D] to the same shape; keys and values are the queries."""
        projected = linear(query, self.in_proj_weight, self.in_proj_bias)
        heads = projected.unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(*heads.unbind()).transpose(1, 2).flatten(2)
        return linear(attended, self.out_proj.weight, self.out_proj.bias), None


class _CharLSTM(nn.Module):
    def __init__(self, vocabulary: int, *, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 8)
        self.lstm = nn.LSTM(8, hidden, 2, batch_first=True)
        self.output = nn.Linear(hidden, vocabulary)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden_BTH, _ = self.lstm(self.embedding(tokens_BT))
        logits: Tensor = self.output(hidden_BTH[:, -1])
        return logits


def _resnet(workload: Workload) -> list[tuple[str, nn.Module]]:
    width = 16
    return [
        ("stem", nn.Conv2d(workload.shape[0], width, 3, padding=1, bias=False)),
        ("norm", nn.GroupNorm(8, width)),
        ("relu", nn.ReLU()),
        ("stage1", nn.Sequential(_Block(width, width, 1))),
        ("stage2", nn.Sequential(_Block(width, 2 * width, 2))),
        ("stage3", nn.Sequential(_Block(2 * width, 4 * width, 2))),
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("output", nn.Linear(4 * width, CLASSES)),
    ]


class _Block(nn.Module):
    """Two 3x3 convolutions, and the input, projected if need be, added to their output."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        layers: list[tuple[str, nn.Module]] = [
            ("conv1", nn.Conv2d(channels, width, 3, stride, 1, bias=False)),
            ("norm1", nn.GroupNorm(8, width)),
            ("relu", nn.ReLU()),
            ("conv2", nn.Conv2d(width, width, 3, 1, 1, bias=False)),
            ("norm2", nn.GroupNorm(8, width)),
        ]
        self.residual = nn.Sequential(OrderedDict(layers))
        self.shortcut: nn.Module = nn.Identity()
        if channels != width:
            projection = nn.Conv2d(channels, width, 1, stride, bias=False)
            norm = nn.GroupNorm(8, width)
            self.shortcut = nn.Sequential(OrderedDict(conv=projection, norm=norm))

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.residual(images) + self.shortcut(images)
        return outputs.relu()


def _mlp(workload: Workload) -> list[tuple[str, nn.Module]]:
    layers: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten())]
    size = math.prod(workload.shape)
    for number, width in enumerate(workload.model["hidden"], start=1):
        layers.append((f"hidden{number}", nn.Linear(size, width)))
        layers.append((f"activation{number}", nn.ReLU()))
        size = width
    return [*layers, ("output", nn.Linear(size, CLASSES))]


def _cnn_32(workload: Workload) -> list[tuple[str, nn.Module]]:
    channels, height, width = workload.shape
    return [
        ("conv1", nn.Conv2d(channels, 32, 3)),
        ("relu1", nn.ReLU()),
        ("conv2", nn.Conv2d(32, 64, 3)),
        ("relu2", nn.ReLU()),
        ("pool", nn.MaxPool2d(2)),
        ("flatten", nn.Flatten()),
        ("hidden", nn.Linear(64 * ((height - 4) // 2) * ((width - 4) // 2), 128)),
        ("relu3", nn.ReLU()),
        ("output", nn.Linear(128, CLASSES)),
    ]


def _cnn_28(workload: Workload) -> list[tuple[str, nn.Module]]:
    channels, height, width = workload.shape
    return [
        ("conv1", nn.Conv2d(channels, 32, 5, padding=2)),
        ("relu1", nn.ReLU()),
        ("pool1", nn.MaxPool2d(2)),
        ("conv2", nn.Conv2d(32, 64, 5, padding=2)),
        ("relu2", nn.ReLU()),
        ("pool2", nn.MaxPool2d(2)),
        ("flatten", nn.Flatten()),
        ("hidden", nn.Linear(64 * (height // 4) * (width // 4), 512)),
        ("relu3", nn.ReLU()),
        ("output", nn.Linear(512, CLASSES)),
    ]
