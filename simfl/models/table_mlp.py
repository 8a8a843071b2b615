"""A model of tables with categories.

Shapes: B examples, F numbers, K columns of categories, D numbers of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from simfl.component import Count, Fraction
from simfl.errors import ConfigError
from simfl.models.spec import DataShape, ModelSpec, num_outputs
from simfl.models.zoo import MLP


@dataclass(frozen=True)
class TableMLP(ModelSpec):
    """Multi-layer perceptron on the numbers of a table and embeddings of its categories.

    For ``source: csv`` or ``parquet`` with categories encoded by ``index``. The embeddings of a
    row's categories are joined to its numbers: F + K * D inputs of the first layer.

    Source: Guo and Berkhahn, 2016, https://arxiv.org/abs/1604.06737
    """

    name: ClassVar[str] = "table-mlp"
    embedding: Count = 8
    """The numbers of a category's embedding."""
    hidden: tuple[Count, ...] = (64,)
    """The widths of the hidden layers."""
    activation: Literal["relu", "tanh", "gelu", "sigmoid"] = "relu"
    """The function after each hidden layer."""
    dropout: Fraction = 0.0
    """The fraction of hidden units that are dropped in training."""
    outputs: Count | None = None
    """The number of outputs; by default one per class, or per number of the target."""

    def build(self, shape: DataShape) -> nn.Module:
        """Build the module.

        Raises:
            ConfigError: if the inputs are no ``categories``, perhaps with ``numbers``.
        """
        axes = shape.inputs if isinstance(shape.inputs, dict) else {}
        if "categories" not in axes or not axes.keys() <= {"categories", "numbers"}:
            raise ConfigError(
                f"model {self.name}: inputs have shape {shape.inputs}, but it takes categories by "
                "index; set data.categories: index, or use kind: mlp"
            )
        width = self.embedding * axes["categories"][0] + sum(axes.get("numbers", ()))
        outputs = num_outputs(self.name, shape, self.outputs)
        layers = MLP(self.hidden, self.activation, self.dropout, outputs)
        joined = layers.build(DataShape((width,), shape.target_shape, shape.num_classes))
        return _TableMLP(nn.Embedding(shape.vocabulary or 1, self.embedding), joined)


class _TableMLP(nn.Module):
    def __init__(self, embedding: nn.Embedding, layers: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding
        self.layers = layers

    def forward(self, categories: Tensor, numbers: Tensor | None = None) -> Tensor:
        """Return logits [B, classes] of categories [B, K] and numbers [B, F]."""
        embedded = self.embedding(categories).flatten(1)
        joined = embedded if numbers is None else torch.cat([numbers, embedded], dim=1)
        logits: Tensor = self.layers(joined)
        return logits
