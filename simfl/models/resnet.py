"""A small ResNet for images, with GroupNorm in place of BatchNorm."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from simfl.component import Count
from simfl.errors import ConfigError
from simfl.models.data_shape import DataShape
from simfl.models.spec import ModelSpec, image_axes, num_outputs
from simfl.models.zoo import image_layers


@dataclass(frozen=True)
class ResNet(ModelSpec):
    """Residual network of three stages, for small images of any size.

    GroupNorm, as batch statistics of clients whose data differ do not fit each other, and as
    each example's gradient can then be clipped.

    Source: He et al., 2015, section 4.2, https://arxiv.org/abs/1512.03385 (with projections where
    a stage begins); Hsieh et al., 2020, section 5, https://arxiv.org/abs/1910.00189
    """

    name: ClassVar[str] = "resnet"
    depth: Count = 8
    """The number of weight layers: 6n + 2 for n blocks per stage, as 8, 14, 20."""
    width: Count = 16
    """The channels of the first stage; they double in the second and the third."""
    groups: Count = 8
    """The groups of each GroupNorm; they must divide the width."""
    outputs: Count | None = None
    """How many outputs; by default one per class, or per number of the target."""

    def check(self) -> None:
        """Check that depth and groups are possible."""
        if self.depth < 8 or (self.depth - 2) % 6:
            raise ConfigError(f"resnet: depth is {self.depth}, but must be 6n + 2: 8, 14, 20...")
        if self.width % self.groups:
            raise ConfigError(
                f"resnet: groups is {self.groups}, but must divide the width {self.width}"
            )

    def build(self, shape: DataShape) -> nn.Module:
        """Make the module."""
        channels = image_axes(self.name, shape)[0]
        layers = image_layers(shape)
        layers["stem"] = _convolution(channels, self.width)
        layers["norm"] = nn.GroupNorm(self.groups, self.width)
        layers["relu"] = nn.ReLU()
        size = self.width
        for stage in range(3):
            layers[f"stage{stage + 1}"] = self._stage(size, self.width * 2**stage, stage)
            size = self.width * 2**stage
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["output"] = nn.Linear(size, num_outputs(self.name, shape, self.outputs))
        return nn.Sequential(layers)

    def _stage(self, channels: int, width: int, stage: int) -> nn.Module:
        num_blocks = (self.depth - 2) // 6
        first = _Block(channels, width, groups=self.groups, stride=2 if stage else 1)
        rest = (_Block(width, width, groups=self.groups) for _ in range(num_blocks - 1))
        return nn.Sequential(first, *rest)


class _Block(nn.Module):
    """Two 3x3 convolutions, and the input added to what they return."""

    def __init__(self, channels: int, width: int, *, groups: int, stride: int = 1) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            OrderedDict(
                conv1=_convolution(channels, width, stride=stride),
                norm1=nn.GroupNorm(groups, width),
                relu=nn.ReLU(),
                conv2=_convolution(width, width),
                norm2=nn.GroupNorm(groups, width),
            )
        )
        self.shortcut = (
            nn.Identity() if channels == width else _projection(channels, width, groups, stride)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Map [B, channels, H, W] to [B, width, H / stride, W / stride]."""
        outputs: Tensor = self.residual(inputs) + self.shortcut(inputs)
        return outputs.relu()


def _convolution(channels: int, width: int, *, stride: int = 1) -> nn.Module:
    return nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)


def _projection(channels: int, width: int, groups: int, stride: int) -> nn.Module:
    convolution = nn.Conv2d(channels, width, 1, stride=stride, bias=False)
    return nn.Sequential(OrderedDict(conv=convolution, norm=nn.GroupNorm(groups, width)))
