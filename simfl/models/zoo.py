"""The models that come with simfl: dense, convolutional, recurrent.

Shapes: B examples, T positions, V characters.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from simfl.component import Count, Fraction
from simfl.errors import ConfigError
from simfl.models.dropout import Dropout
from simfl.models.spec import DataShape, ModelSpec, image_axes, num_features, num_outputs

_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "sigmoid": nn.Sigmoid}


@dataclass(frozen=True)
class Logistic(ModelSpec):
    """Multinomial logistic regression: one linear layer on the flattened input."""

    name: ClassVar[str] = "logistic"
    outputs: Count | None = None
    """The number of outputs; by default one per class, or per number of the target."""

    def build(self, shape: DataShape) -> nn.Module:
        """Build the module."""
        return MLP(hidden=(), outputs=self.outputs)._build(self.name, shape)


@dataclass(frozen=True)
class MLP(ModelSpec):
    """Multi-layer perceptron on the flattened input."""

    name: ClassVar[str] = "mlp"
    hidden: tuple[Count, ...] = (64,)
    """The widths of the hidden layers."""
    activation: Literal["relu", "tanh", "gelu", "sigmoid"] = "relu"
    """The function after each hidden layer."""
    dropout: Fraction = 0.0
    """The fraction of hidden units that are dropped in training."""
    outputs: Count | None = None
    """The number of outputs; by default one per class, or per number of the target."""

    def build(self, shape: DataShape) -> nn.Module:
        """Build the module."""
        return self._build(self.name, shape)

    def _build(self, model: str, shape: DataShape) -> nn.Module:
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        size = num_features(model, shape)
        for index, width in enumerate(self.hidden, start=1):
            layers[f"hidden{index}"] = nn.Linear(size, width)
            layers[f"activation{index}"] = _ACTIVATIONS[self.activation]()
            if self.dropout:
                layers[f"dropout{index}"] = Dropout(self.dropout)
            size = width
        layers["output"] = nn.Linear(size, num_outputs(model, shape, self.outputs))
        return nn.Sequential(layers)


@dataclass(frozen=True)
class CNN28(ModelSpec):
    """The CNN that FedAvg was presented with, for images of 28x28 pixels; 4x4 at least.

    Two 5x5 convolutions of 32 and 64 channels, each followed by ReLU and 2x2 max pooling, then a
    dense layer of 512: 1,663,370 parameters for 28x28 images of one channel and 10 classes.

    Source: McMahan et al., 2017, section 3, https://arxiv.org/abs/1602.05629
    """

    name: ClassVar[str] = "cnn-28"
    outputs: Count | None = None
    """The number of outputs; by default one per class, or per number of the target."""

    def build(self, shape: DataShape) -> nn.Module:
        """Build the module."""
        channels, height, width = image_axes(self.name, shape, smallest=4)
        layers = image_layers(shape)
        layers["conv1"] = nn.Conv2d(channels, 32, 5, padding=2)
        layers["relu1"] = nn.ReLU()
        layers["pool1"] = nn.MaxPool2d(2)
        layers["conv2"] = nn.Conv2d(32, 64, 5, padding=2)
        layers["relu2"] = nn.ReLU()
        layers["pool2"] = nn.MaxPool2d(2)
        layers["flatten"] = nn.Flatten()
        layers["hidden"] = nn.Linear(64 * (height // 4) * (width // 4), 512)
        layers["relu3"] = nn.ReLU()
        layers["output"] = nn.Linear(512, num_outputs(self.name, shape, self.outputs))
        return nn.Sequential(layers)


@dataclass(frozen=True)
class CNN32(ModelSpec):
    """The CNN of the pfl-research benchmarks on CIFAR-10, for 32x32 pixels; 6x6 at least.

    Two 3x3 convolutions of 32 and 64 channels without padding, 2x2 max pooling, a dense layer of
    128: 1,626,442 parameters for 32x32 images of three channels and 10 classes. Weights are drawn
    as there: Glorot and Bengio (2010), uniform.

    Source: Granqvist et al., 2024 (pfl-research), https://arxiv.org/abs/2404.06430
    """

    name: ClassVar[str] = "cnn-32"
    dropout1: Fraction = 0.25
    """The fraction of pooled features that are dropped in training."""
    dropout2: Fraction = 0.5
    """The fraction of the dense layer's units that are dropped in training."""
    outputs: Count | None = None
    """The number of outputs; by default one per class, or per number of the target."""

    def build(self, shape: DataShape) -> nn.Module:
        """Build the module."""
        channels, height, width = image_axes(self.name, shape, smallest=6)
        layers = image_layers(shape)
        layers["conv1"] = nn.Conv2d(channels, 32, 3)
        layers["relu1"] = nn.ReLU()
        layers["conv2"] = nn.Conv2d(32, 64, 3)
        layers["relu2"] = nn.ReLU()
        layers["pool"] = nn.MaxPool2d(2)
        layers["dropout1"] = Dropout(self.dropout1)
        layers["flatten"] = nn.Flatten()
        layers["hidden"] = nn.Linear(64 * ((height - 4) // 2) * ((width - 4) // 2), 128)
        layers["relu3"] = nn.ReLU()
        layers["dropout2"] = Dropout(self.dropout2)
        layers["output"] = nn.Linear(128, num_outputs(self.name, shape, self.outputs))
        for layer in layers.values():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
        return nn.Sequential(layers)


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
    """The size of a character's embedding."""
    hidden: Count = 256
    """The units of each LSTM layer."""
    layers: Count = 2
    """The number of LSTM layers."""
    dropout: Fraction = 0.0
    """The fraction of units that are dropped between LSTM layers in training."""
    vocabulary: Count | None = None
    """The number of characters; by default that of the data."""

    def check(self) -> None:
        """Check that there are layers for dropout to act between."""
        if self.dropout and self.layers == 1:
            raise ConfigError(
                f"char-lstm: dropout is {self.dropout}, but acts between layers and there is one; "
                "set layers to 2 or more, or dropout to 0"
            )

    def build(self, shape: DataShape) -> nn.Module:
        """Build the module."""
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


def image_layers(shape: DataShape) -> OrderedDict[str, nn.Module]:
    """Return the first layers of an image model: they add a channel axis to images without."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if shape.single_input is not None and len(shape.single_input) == 2:
        layers["channel"] = nn.Unflatten(1, (1, shape.single_input[0]))
    return layers
