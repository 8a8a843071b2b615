"""Augmentation: training examples, changed at random each time that they are trained on.

Shapes: N examples of a batch, C channels, H height, W width, ... an input's own axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from simfl.component import Component, Count, Fraction, Positive
from simfl.data.dataset import Array
from simfl.errors import ConfigError
from simfl.plugins import import_object
from simfl.seeding import derive_seeds, uniforms

_NEAR: Final = 1e-5


class Draws:
    """Random numbers for the examples of a batch: of each from a seed of its own.

    So an example gets the same ones in a stack of clients, alone, and when its round is repeated.
    Each call returns further numbers.

    Args:
        seeds: [N] 63-bit integers, int64.
        device: where the numbers are put.
    """

    def __init__(self, seeds: Array, *, device: torch.device | str = "cpu") -> None:
        self._seeds = seeds
        self._device = device
        self._calls = 0

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return a number between low and high for each example: [N], float32."""
        return torch.from_numpy(low + (high - low) * self._next()).float().to(self._device)

    def integers(self, low: int, high: int) -> Tensor:
        """Return an integer from low to high - 1 for each example: [N], int64."""
        drawn = low + np.floor(self._next() * (high - low)).astype(np.int64)
        return torch.from_numpy(drawn).to(self._device)

    def normal(self, axes: Sequence[int] = ()) -> Tensor:
        """Return standard normal numbers for each example: ``[N, *axes]``, float32."""
        keys = derive_seeds(self._seeds, np.full_like(self._seeds, self._calls))
        self._calls += 1
        drawn = np.empty((len(keys), *axes), np.float32)
        for row, key in enumerate(keys.tolist()):
            generator = np.random.Generator(np.random.Philox(key=key))
            drawn[row] = generator.standard_normal(axes, np.float32)
        return torch.from_numpy(drawn).to(self._device)

    def _next(self) -> Any:
        self._calls += 1
        return uniforms(self._seeds, self._calls - 1)


class Augmentation(Component, kind="augmentation"):
    """A step of ``data.augment``: a random change of training examples' inputs.

    Inputs are as the model gets them, scaled and normalised. Evaluation never has it.
    """

    def apply(self, inputs: Tensor, draws: Draws) -> Tensor:
        """Return the changed inputs, of the same shape and type, and leave the given ones.

        What becomes of an example must not depend on the others: they may be those of other
        clients.

        Args:
            inputs: [N, ...] of some examples.
            draws: the only source of randomness.
        """
        raise NotImplementedError(f"{type(self).__name__} has no apply()")

    def check_axes(self, axes: tuple[int, ...]) -> None:
        """Check, before the run, that it goes with inputs of these axes.

        Raises:
            ConfigError: if it does not.
        """


class _OfImages(Augmentation):
    """A change of images [C, H, W] or [H, W]."""

    def check_axes(self, axes: tuple[int, ...]) -> None:
        if len(axes) not in (2, 3):
            raise ConfigError(
                f"{self.name} is for images [channels, height, width], and inputs have shape "
                f"{list(axes)}; leave it out"
            )


@dataclass(frozen=True)
class Flip(_OfImages):
    """Mirror some of the images, left to right."""

    name: ClassVar[str] = "flip"

    probability: Fraction = 0.5
    """The share of images that are mirrored."""

    def apply(self, inputs: Tensor, draws: Draws) -> Tensor:
        """Return the images."""
        is_flipped = draws.uniform() < self.probability
        return torch.where(_with_axes(is_flipped, inputs), inputs.flip(-1), inputs)


@dataclass(frozen=True)
class Crop(_OfImages):
    """Pad each image with zeros, and cut out a part of the original size at a random place.

    After ``data.normalize``, zero is the mean colour.

    Source: He et al., 2015, section 4.2, https://arxiv.org/abs/1512.03385
    """

    name: ClassVar[str] = "crop"

    padding: Count = 4
    """The pixels that are added on each side, fewer than an image has."""

    def check_axes(self, axes: tuple[int, ...]) -> None:
        """Check that something of each image remains."""
        super().check_axes(axes)
        if self.padding >= min(axes[-2:]):
            raise ConfigError(
                f"padding is {self.padding}, and images are {axes[-2]}x{axes[-1]}, so that nothing "
                "would remain of some; make it smaller, or leave crop out"
            )

    def apply(self, inputs: Tensor, draws: Draws) -> Tensor:
        """Return the parts."""
        height, width = inputs.shape[-2:]
        places = 2 * self.padding + 1
        rows_NH = draws.integers(0, places)[:, None] + _count(height, inputs)
        columns_NW = draws.integers(0, places)[:, None] + _count(width, inputs)
        padded = F.pad(inputs, [self.padding] * 4)
        images = padded.reshape(len(inputs), -1, *padded.shape[-2:])  # with an axis of channels
        example = _count(len(inputs), inputs)[:, None, None, None]
        channel = _count(images.shape[1], inputs)[:, None, None]
        cut = images[example, channel, rows_NH[:, None, :, None], columns_NW[:, None, None, :]]
        return cut.reshape(inputs.shape)


@dataclass(frozen=True)
class Cutout(_OfImages):
    """Set a square of each image to zero, around a random pixel; it may extend over the edge.

    Source: DeVries and Taylor, 2017, https://arxiv.org/abs/1708.04552
    """

    name: ClassVar[str] = "cutout"

    size: Count = 8
    """The pixels of a side of the square, at most as many as an image has."""

    def check_axes(self, axes: tuple[int, ...]) -> None:
        """Check that the square is no larger than the images."""
        super().check_axes(axes)
        if self.size > max(axes[-2:]):
            raise ConfigError(
                f"size is {self.size}, and images are {axes[-2]}x{axes[-1]}, so that nothing would "
                "remain of most; make it smaller"
            )

    def apply(self, inputs: Tensor, draws: Draws) -> Tensor:
        """Return the images."""
        is_row_NH, is_column_NW = (
            self._is_within(length, inputs, draws) for length in inputs.shape[-2:]
        )
        is_cut = is_row_NH[:, :, None] & is_column_NW[:, None, :]
        if inputs.dim() == 4:
            is_cut = is_cut[:, None]
        return inputs.masked_fill(is_cut, 0.0)

    def _is_within(self, length: int, inputs: Tensor, draws: Draws) -> Tensor:
        """Return for each example which pixels of an axis are within the square."""
        first = draws.integers(0, length)[:, None] - self.size // 2
        pixels = _count(length, inputs)
        return (pixels >= first) & (pixels < first + self.size)


@dataclass(frozen=True)
class Noise(Augmentation):
    """Add normal noise to all numbers of an input."""

    name: ClassVar[str] = "noise"

    scale: Positive = 0.1
    """The standard deviation."""

    def apply(self, inputs: Tensor, draws: Draws) -> Tensor:
        """Return the noisy inputs."""
        return inputs + self.scale * draws.normal(inputs.shape[1:]).to(inputs.dtype)


@dataclass(frozen=True)
class PythonAugmentation(Augmentation):
    """A function of yours: (inputs [N, ...], draws, **arguments) -> inputs.

    ``Augmentation.apply`` says what it must keep to, and ``Draws`` what it can draw.
    """

    name: ClassVar[str] = "python"
    runs_code: ClassVar[bool] = True

    path: str
    """Its import path: package.module:function."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Its arguments, by name."""

    def apply(self, inputs: Tensor, draws: Draws) -> Tensor:
        """Call the function."""
        returned: Tensor = import_object(self.path)(inputs, draws, **self.arguments)
        return returned


def augment(steps: Sequence[Augmentation], inputs: Tensor, seeds: Array) -> Tensor:
    """Apply the steps in order.

    Args:
        steps: what to do.
        inputs: [N, ...].
        seeds: [N] of the examples, int64.

    Raises:
        ConfigError: if a step changes shape or type.
    """
    for index, step in enumerate(steps):
        own = derive_seeds(seeds, np.full_like(seeds, index))
        changed = step.apply(inputs, Draws(own, device=inputs.device))
        _require_alike(step.name, changed, inputs)
        inputs = changed
    return inputs


def check_augmentation(step: Augmentation, inputs: Tensor) -> None:
    """Try a step on a few examples, together and apart.

    Raises:
        ConfigError: if it does not go with such inputs, or mixes examples.
        Exception: whatever third-party code raises.
    """
    step.check_axes(tuple(inputs.shape[1:]))
    seeds = np.arange(len(inputs))
    given = inputs.clone()
    found = augment([step], inputs, seeds)
    if not torch.equal(inputs, given):
        raise ConfigError("changed the given inputs; return new ones")
    apart = [augment([step], inputs[n : n + 1], seeds[n : n + 1]) for n in range(len(inputs))]
    if not torch.allclose(torch.cat(apart), found, rtol=_NEAR, atol=_NEAR, equal_nan=True):
        raise ConfigError(
            "gives an example other values among others than alone, or draws from elsewhere; draw "
            "from the given draws, one number for each example"
        )


def _require_alike(name: str, found: object, given: Tensor) -> None:
    if isinstance(found, Tensor) and (found.shape, found.dtype) == (given.shape, given.dtype):
        return
    shown = f"{list(found.shape)} {found.dtype}" if isinstance(found, Tensor) else repr(found)
    raise ConfigError(
        f"augmentation {name} returned {shown} for inputs {list(given.shape)} {given.dtype}; both "
        "must be the same"
    )


def _with_axes(values_N: Tensor, like: Tensor) -> Tensor:
    return values_N.reshape(-1, *[1] * (like.dim() - 1))


def _count(length: int, like: Tensor) -> Tensor:
    return torch.arange(length, device=like.device)
