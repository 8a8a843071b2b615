"""Residual networks, and MobileNetV2, with GroupNorm.

Shapes: B examples, H height, W width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final, Literal, TypeAlias

from torch import Tensor, nn

from simfl.component import Count, Fraction, Positive
from simfl.errors import ConfigError
from simfl.models.dropout import Dropout
from simfl.models.spec import DataShape, ModelSpec, image_axes, num_outputs
from simfl.models.zoo import image_layers

_Norm: TypeAlias = "Callable[[int], nn.Module]"
"""Makes the normalisation layer of so many channels."""

_SMALL: Final = 64
"""The height and width up to which images are small, unless ``stem`` says otherwise."""


@dataclass(frozen=True)
class ResNet(ModelSpec):
    """Residual network of three stages, for small images of any size.

    It uses GroupNorm, because batch statistics of clients with different data do not fit together,
    and because it allows clipping each example's gradient.

    Source: He et al., 2015, section 4.2, https://arxiv.org/abs/1512.03385 (with projections at the
    start of a stage); Hsieh et al., 2020, section 5, https://arxiv.org/abs/1910.00189
    """

    name: ClassVar[str] = "resnet"
    depth: Count = 8
    """The number of weight layers: 6n + 2 for n blocks per stage, as 8, 14, 20."""
    width: Count = 16
    """The channels of the first stage; they double in the second and the third."""
    groups: Count = 8
    """The groups of each GroupNorm; they must divide the width."""
    outputs: Count | None = None
    """The number of outputs; by default one per class, or per number of the target."""

    def check(self) -> None:
        """Check that depth and groups are possible."""
        if self.depth < 8 or (self.depth - 2) % 6:
            raise ConfigError(
                f"resnet: depth is {self.depth}, but must be 6n + 2: 8, 14, 20...; "
                "kind: resnet18 and resnet34 are those with four stages"
            )
        if self.width % self.groups:
            raise ConfigError(
                f"resnet: groups is {self.groups}, but must divide the width {self.width}"
            )

    def build(self, shape: DataShape) -> nn.Module:
        """Build the module."""
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
        norm = partial(nn.GroupNorm, self.groups)
        return _stage(channels, width, norm, blocks=num_blocks, stride=2 if stage else 1)


@dataclass(frozen=True)
class _ImageNetModel(ModelSpec):
    """What networks that were made for ImageNet have in common.

    Averages of a batch differ between clients with different data, and do not allow clipping each
    example's gradient; so norms are GroupNorm by default.
    """

    stem: Literal["small", "large"] | None = None
    """How the network begins: ``large`` as in the paper, for images of 224x224 pixels; ``small``
    keeps the resolution of smaller ones. null: ``small`` for images of up to 64x64 pixels."""
    norm: Literal["group", "batch"] = "group"
    """``group``: GroupNorm. ``batch``: BatchNorm, as in the paper; clients are then trained one at
    a time, and each example's gradient cannot be clipped."""
    groups: Count = 32
    """The groups of each GroupNorm, which must divide the channels."""
    outputs: Count | None = None
    """The number of outputs; by default one per class, or per number of the target."""

    def build(self, shape: DataShape) -> nn.Module:
        """Build the module."""
        channels, height, width = image_axes(self.name, shape)
        is_small = max(height, width) <= _SMALL if self.stem is None else self.stem == "small"
        layers = image_layers(shape)
        size = self._add_layers(layers, channels, is_small=is_small)
        layers["output"] = nn.Linear(size, num_outputs(self.name, shape, self.outputs))
        module = nn.Sequential(layers)
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        return module

    def _add_layers(
        self, layers: OrderedDict[str, nn.Module], channels: int, *, is_small: bool
    ) -> int:
        """Add all layers but the output's; return how many features the last of them gives."""
        raise NotImplementedError

    def _norm(self, channels: int) -> nn.Module:
        if self.norm == "batch":
            return nn.BatchNorm2d(channels)
        return nn.GroupNorm(self.groups, channels)


@dataclass(frozen=True)
class _ImageNetResNet(_ImageNetModel):
    """A residual network of four stages with two convolutions in each block."""

    blocks: ClassVar[tuple[int, ...]]
    """The number of blocks of each stage."""

    width: Count = 64
    """The channels of the first stage; they double in each of the following."""

    def check(self) -> None:
        """Check that the groups divide the width."""
        if self.norm == "group" and self.width % self.groups:
            raise ConfigError(
                f"{self.name}: groups is {self.groups}, but must divide the width {self.width}"
            )

    def _add_layers(
        self, layers: OrderedDict[str, nn.Module], channels: int, *, is_small: bool
    ) -> int:
        if is_small:
            layers["stem"] = _convolution(channels, self.width)
        else:
            layers["stem"] = nn.Conv2d(channels, self.width, 7, stride=2, padding=3, bias=False)
        layers["norm"] = self._norm(self.width)
        layers["relu"] = nn.ReLU()
        if not is_small:
            layers["stem_pool"] = nn.MaxPool2d(3, stride=2, padding=1)
        size = self.width
        for stage, blocks in enumerate(self.blocks):
            width, stride = self.width * 2**stage, 2 if stage else 1
            layers[f"stage{stage + 1}"] = _stage(
                size, width, self._norm, blocks=blocks, stride=stride
            )
            size = width
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        return size


@dataclass(frozen=True)
class ResNet18(_ImageNetResNet):
    """ResNet-18: 11,689,512 parameters for 224x224 images of three channels and 1000 classes.

    The stem is a 7x7 convolution of stride 2 and max pooling, or a 3x3 convolution for small
    images, as usual on CIFAR.

    Source: He et al., 2015, table 1, https://arxiv.org/abs/1512.03385; GroupNorm: Wu and He, 2018,
    https://arxiv.org/abs/1803.08494; Hsieh et al., 2020, section 5,
    https://arxiv.org/abs/1910.00189
    """

    name: ClassVar[str] = "resnet18"
    blocks: ClassVar[tuple[int, ...]] = (2, 2, 2, 2)


@dataclass(frozen=True)
class ResNet34(_ImageNetResNet):
    """ResNet-34: 21,797,672 parameters for 224x224 images of three channels and 1000 classes.

    Otherwise as ``resnet18``.

    Source: He et al., 2015, table 1, https://arxiv.org/abs/1512.03385
    """

    name: ClassVar[str] = "resnet34"
    blocks: ClassVar[tuple[int, ...]] = (3, 4, 6, 3)


def _stage(channels: int, width: int, norm: _Norm, *, blocks: int, stride: int) -> nn.Module:
    first = _Block(channels, width, norm, stride=stride)
    return nn.Sequential(first, *(_Block(width, width, norm) for _ in range(blocks - 1)))


class _Block(nn.Module):
    """Two 3x3 convolutions, and the input added to their output."""

    def __init__(self, channels: int, width: int, norm: _Norm, *, stride: int = 1) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            OrderedDict(
                conv1=_convolution(channels, width, stride=stride),
                norm1=norm(width),
                relu=nn.ReLU(),
                conv2=_convolution(width, width),
                norm2=norm(width),
            )
        )
        self.shortcut = (
            nn.Identity() if channels == width else _projection(channels, width, norm, stride)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Map [B, channels, H, W] to [B, width, H / stride, W / stride]."""
        outputs: Tensor = self.residual(inputs) + self.shortcut(inputs)
        return outputs.relu()


def _convolution(channels: int, width: int, *, stride: int = 1) -> nn.Module:
    return nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)


def _projection(channels: int, width: int, norm: _Norm, stride: int) -> nn.Module:
    convolution = nn.Conv2d(channels, width, 1, stride=stride, bias=False)
    return nn.Sequential(OrderedDict(conv=convolution, norm=norm(width)))


_MOBILENET: Final = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""The stages: expansion, channels, blocks, stride of the first block."""


@dataclass(frozen=True)
class MobileNetV2(_ImageNetModel):
    """MobileNetV2: 3,504,872 parameters for 224x224 images of three channels and 1000 classes.

    Blocks expand their channels, convolve each channel by itself, and project to fewer. For small
    images, the first convolution and the second stage have stride 1 instead of 2.

    Source: Sandler et al., 2018, table 2, https://arxiv.org/abs/1801.04381; GroupNorm: Wu and He,
    2018, https://arxiv.org/abs/1803.08494
    """

    name: ClassVar[str] = "mobilenet-v2"

    groups: Literal[1, 2, 4, 8] = 8
    """The groups of each GroupNorm; all layers have multiples of 8 channels."""
    width: Positive = 1.0
    """What all numbers of channels are multiplied with; the last layer has 1280 at least."""
    dropout: Fraction = 0.2
    """The fraction of the last layer's features that are dropped in training."""

    def _add_layers(
        self, layers: OrderedDict[str, nn.Module], channels: int, *, is_small: bool
    ) -> int:
        size, last = self._channels(32), self._channels(1280 * max(1.0, 1 / self.width))
        layers["stem"] = self._unit(channels, size, 3, stride=1 if is_small else 2)
        for index, (expansion, base, blocks, stride) in enumerate(_MOBILENET):
            width, stage = self._channels(base), nn.Sequential()
            for block in range(blocks):
                own = 1 if block or (is_small and index == 1) else stride
                stage.append(self._block(size, width, expansion=expansion, stride=own))
                size = width
            layers[f"stage{index + 1}"] = stage
        layers["last"] = self._unit(size, last, 1)
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        if self.dropout:
            layers["dropout"] = Dropout(self.dropout)
        return last

    def _channels(self, base: float) -> int:
        """Return the multiple of 8 next to a number of channels, and not 10 % below it."""
        exact = base * self.width
        rounded = max(8, int(exact + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * exact else rounded

    def _block(self, channels: int, width: int, *, expansion: int, stride: int) -> nn.Module:
        inner = channels * expansion
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if expansion > 1:
            layers["expand"] = self._unit(channels, inner, 1)
        layers["depthwise"] = self._unit(inner, inner, 3, stride=stride, groups=inner)
        layers["project"] = _projection(inner, width, self._norm, 1)
        block = nn.Sequential(layers)
        return _Added(layers) if stride == 1 and channels == width else block

    def _unit(
        self, channels: int, width: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> nn.Module:
        convolution = nn.Conv2d(
            channels, width, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        layers = OrderedDict(conv=convolution, norm=self._norm(width), relu=nn.ReLU6())
        return nn.Sequential(layers)


class _Added(nn.Sequential):
    """Layers whose input is added to their output."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Map [B, channels, H, W] to the same."""
        outputs: Tensor = inputs + super().forward(inputs)  # type: ignore[no-untyped-call]
        return outputs
