"""The models of the workloads in plain PyTorch, with the names of simfl's parameters.

Other frameworks' environments, which have no simfl, build them too.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import nn
from workloads import CLASSES, Workload

__all__ = ["build_module"]


def build_module(workload: Workload) -> nn.Module:
    """Make a workload's model; its weights come from a recipe."""
    layers = {"mlp": _mlp, "cnn-32": _cnn_32, "cnn-28": _cnn_28}[workload.model["kind"]](workload)
    return nn.Sequential(OrderedDict(layers))


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
