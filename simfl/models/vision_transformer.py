"""A vision transformer.

Shapes: B examples, L patches and the class token, D numbers of each, H heads, E = D / H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor, nn

from simfl.component import Count, Fraction
from simfl.errors import ConfigError
from simfl.models.dropout import Dropout
from simfl.models.spec import DataShape, ModelSpec, image_axes, num_outputs
from simfl.models.zoo import image_layers

_EPS: Final = 1e-6
"""Of the norms, as in the authors' code."""
_STD: Final = 0.02


@dataclass(frozen=True)
class VisionTransformer(ModelSpec):
    """Vision transformer: patches of an image as the tokens of a transformer encoder.

    The defaults are ViT-Ti/16: 5,717,416 parameters for 224x224 images of three channels and 1000
    classes. Smaller images need smaller patches. Weights are drawn from a normal distribution with
    deviation 0.02, cut off at two deviations.

    Source: Dosovitskiy et al., 2021, https://arxiv.org/abs/2010.11929; ViT-Ti: Touvron et al.,
    2021, https://arxiv.org/abs/2012.12877
    """

    name: ClassVar[str] = "vit"

    patch: Count = 16
    """The height and width of a patch, which must divide those of the images."""
    dim: Count = 192
    """The numbers of a token."""
    depth: Count = 12
    """The number of blocks."""
    heads: Count = 3
    """The heads of each attention, which must divide ``dim``."""
    mlp: Count | None = None
    """The width of the hidden layer of each block. null: four times ``dim``."""
    dropout: Fraction = 0.0
    """The fraction of numbers that are dropped in training: of the tokens at first, and of what
    each layer of a block adds to them."""
    outputs: Count | None = None
    """The number of outputs; by default one per class, or per number of the target."""

    def check(self) -> None:
        """Check that there is a number of dimensions for each head."""
        if self.dim % self.heads:
            raise ConfigError(f"vit: heads is {self.heads}, but must divide dim, {self.dim}")

    def build(self, shape: DataShape) -> nn.Module:
        """Build the module.

        Raises:
            ConfigError: if patches do not divide the images.
        """
        channels, height, width = image_axes(self.name, shape)
        if height % self.patch or width % self.patch:
            raise ConfigError(
                f"vit: patch is {self.patch}, but must divide the height and width of the images, "
                f"{height}x{width}"
            )
        layers = image_layers(shape)
        num_patches = (height // self.patch) * (width // self.patch)
        layers["tokens"] = _Tokens(channels, self.patch, self.dim, num_patches)
        layers["dropout"] = _dropout(self.dropout)
        for index in range(1, self.depth + 1):
            layers[f"block{index}"] = _Block(
                self.dim, self.heads, self.mlp or 4 * self.dim, dropout=self.dropout
            )
        layers["norm"] = nn.LayerNorm(self.dim, eps=_EPS)
        layers["first"] = _First()
        layers["output"] = nn.Linear(self.dim, num_outputs(self.name, shape, self.outputs))
        module = nn.Sequential(layers)
        for layer in module.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                _draw(layer.weight)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        return module


def _draw(weight: Tensor) -> None:
    nn.init.trunc_normal_(weight, std=_STD, a=-2 * _STD, b=2 * _STD)


def _dropout(share: float) -> nn.Module:
    return Dropout(share) if share else nn.Identity()


class _Tokens(nn.Module):
    """Projected patches, after a token for the class, with an embedding of each position."""

    def __init__(self, channels: int, patch: int, dim: int, num_patches: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, dim, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, dim))
        self.positions = nn.Parameter(torch.zeros(num_patches + 1, dim))
        _draw(self.class_token)
        _draw(self.positions)

    def forward(self, images: Tensor) -> Tensor:
        """Map [B, channels, height, width] to [B, L, D]."""
        patches = self.patches(images).flatten(2).mT
        first = self.class_token.expand(len(images), 1, -1)
        return torch.cat([first, patches], dim=1) + self.positions


class _Block(nn.Module):
    """Attention, then a dense layer, each added to its input; norms come first."""

    def __init__(self, dim: int, heads: int, mlp: int, *, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=_EPS)
        self.attention = _Attention(dim, heads)
        self.dropout1 = _dropout(dropout)
        self.norm2 = nn.LayerNorm(dim, eps=_EPS)
        self.hidden = nn.Linear(dim, mlp)
        self.activation = nn.GELU()
        self.projection = nn.Linear(mlp, dim)
        self.dropout2 = _dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map [B, L, D] to the same."""
        tokens = tokens + self.dropout1(self.attention(self.norm1(tokens)))
        hidden = self.activation(self.hidden(self.norm2(tokens)))
        outputs: Tensor = tokens + self.dropout2(self.projection(hidden))
        return outputs


class _Attention(nn.Module):
    """Multi-head self-attention, in products that also have a batched form."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.projection = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map [B, L, D] to the same."""
        # [3, B, H, L, E]
        query, key, value = (
            self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        scores = query @ key.mT * query.shape[-1] ** -0.5
        mixed = scores.softmax(dim=-1) @ value
        outputs: Tensor = self.projection(mixed.transpose(1, 2).flatten(2))
        return outputs


class _First(nn.Module):
    """The class token."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Map [B, L, D] to [B, D]."""
        return tokens[:, 0]
