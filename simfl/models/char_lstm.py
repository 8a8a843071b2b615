"""The character model of the Shakespeare task.

Shapes: B examples, T positions, V characters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from simfl.component import Count, Fraction
from simfl.errors import ConfigError
from simfl.models.data_shape import DataShape
from simfl.models.spec import ModelSpec


@dataclass(frozen=True)
class CharLSTM(ModelSpec):
    """Next-character prediction: embedding, stacked LSTM, one logit per character.

    Targets of one character per example are predicted from the last position: [B, V]. Targets of
    as many characters as the input are predicted at each position: [B, T, V].

    Source: McMahan et al., 2017, section 3, https://arxiv.org/abs/1602.05629; Caldas et al., 2018
    (LEAF), https://arxiv.org/abs/1812.01097. PyTorch's LSTM has two bias vectors where theirs has
    one.
    """

    name: ClassVar[str] = "char-lstm"
    embedding: Count = 8
    """The numbers that stand for a character."""
    hidden: Count = 256
    """The units of each LSTM layer."""
    layers: Count = 2
    """The number of LSTM layers."""
    dropout: Fraction = 0.0
    """The share of numbers that are dropped between LSTM layers in training."""
    vocabulary: Count | None = None
    """How many characters there are; by default as many as the data use."""

    def check(self) -> None:
        """Check that there is a place for dropout."""
        if self.dropout and self.layers == 1:
            raise ConfigError(
                f"char-lstm: dropout is {self.dropout}, but acts between layers and there is one; "
                "set layers to 2 or more, or dropout to 0"
            )

    def build(self, shape: DataShape) -> nn.Module:
        """Make the module."""
        num_characters = self._num_characters(shape)
        if shape.target_shape not in ((), shape.inputs):
            raise ConfigError(
                f"model char-lstm: targets have shape {list(shape.target_shape)}, but it predicts "
                f"one character, or one per position: [] or {shape.inputs}"
            )
        lstm = nn.LSTM(
            self.embedding, self.hidden, self.layers, batch_first=True, dropout=self.dropout
        )
        every_position = shape.target_shape != ()
        return _CharLSTM(num_characters, lstm, every_position=every_position)

    def _num_characters(self, shape: DataShape) -> int:
        axes = shape.single_input
        if axes is None or len(axes) != 1 or None in (shape.vocabulary, shape.num_classes):
            raise ConfigError(
                f"model char-lstm: inputs have shape {shape.inputs}, vocabulary "
                f"{shape.vocabulary} and {shape.num_classes} classes; it takes one sequence of "
                "integer tokens per example and predicts integer tokens"
            )
        used = max(shape.vocabulary or 1, shape.num_classes or 1)
        if self.vocabulary is not None and self.vocabulary < used:
            raise ConfigError(
                f"model char-lstm: vocabulary is {self.vocabulary}, but the data use {used} "
                f"characters; set it to {used} or more"
            )
        return self.vocabulary or used


class _CharLSTM(nn.Module):
    def __init__(self, num_characters: int, lstm: nn.LSTM, *, every_position: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_characters, lstm.input_size)
        self.lstm = lstm
        self.output = nn.Linear(lstm.hidden_size, num_characters)
        self.every_position = every_position

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return logits, [B, V] or [B, T, V]."""
        hidden_BTH, _ = self.lstm(self.embedding(tokens_BT))
        logits: Tensor = self.output(hidden_BTH if self.every_position else hidden_BTH[:, -1])
        return logits
