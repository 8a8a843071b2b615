"""Feed-forward models: logistic regression, multi-layer perceptron, two small CNNs."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from simfl.component import Count, Fraction
from simfl.models.data_shape import DataShape
from simfl.models.dropout import Dropout
from simfl.models.spec import ModelSpec, image_axes, num_features, num_outputs

_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "sigmoid": nn.Sigmoid}


@dataclass(frozen=True)
class Logistic(ModelSpec):
    """Multinomial logistic regression: one linear layer on the flattened input."""

    name: ClassVar[str] = "logistic"
    outputs: Count | None = None
    """How many outputs; by default one per class, or per number of the target."""

    def build(self, shape: DataShape) -> nn.Module:
        """Make the module."""
        return MLP(hidden=(), outputs=self.outputs)._build(self.name, shape)


@dataclass(frozen=True)
class MLP(ModelSpec):
    """Multi-layer perceptron on the flattened input."""

    name: ClassVar[str] = "mlp"
    hidden: tuple[Count, ...] = (64,)
    """The widths of the hidden layers."""
    activation: Literal["relu", "tanh", "gelu", "sigmoid"] = "relu"
    """What follows each hidden layer."""
    dropout: Fraction = 0.0
    """The share of hidden numbers that are dropped in training."""
    outputs: Count | None = None
    """How many outputs; by default one per class, or per number of the target."""

    def build(self, shape: DataShape) -> nn.Module:
        """Make the module."""
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
    """The CNN that FedAvg was presented with, for 28x28 images; 4x4 or larger will do.

    Two 5x5 convolutions of 32 and 64 channels, each followed by ReLU and 2x2 max pooling, then a
    dense layer of 512: 1,663,370 parameters for 28x28 images of one channel and 10 classes.

    Source: McMahan et al., 2017, section 3, https://arxiv.org/abs/1602.05629
    """

    name: ClassVar[str] = "cnn-28"
    outputs: Count | None = None
    """How many outputs; by default one per class, or per number of the target."""

    def build(self, shape: DataShape) -> nn.Module:
        """Make the module."""
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
    """The CNN of the pfl-research benchmarks on CIFAR-10, for 32x32 images; 6x6 or larger will do.

    Two 3x3 convolutions of 32 and 64 channels without padding, 2x2 max pooling, a dense layer of
    128: 1,626,442 parameters for 32x32 images of three channels and 10 classes. Weights are drawn
    as there: Glorot and Bengio (2010), uniform.

    Source: Granqvist et al., 2024 (pfl-research), https://arxiv.org/abs/2404.06430
    """

    name: ClassVar[str] = "cnn-32"
    dropout1: Fraction = 0.25
    """The share of pooled features that are dropped in training."""
    dropout2: Fraction = 0.5
    """The share of the dense layer's numbers that are dropped in training."""
    outputs: Count | None = None
    """How many outputs; by default one per class, or per number of the target."""

    def build(self, shape: DataShape) -> nn.Module:
        """Make the module."""
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


def image_layers(shape: DataShape) -> OrderedDict[str, nn.Module]:
    """Return the first layers of an image model: a channel axis for images that have none."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if shape.single_input is not None and len(shape.single_input) == 2:
        layers["channel"] = nn.Unflatten(1, (1, shape.single_input[0]))
    return layers
