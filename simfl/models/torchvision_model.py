"""Models of torchvision."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from torch import nn

from simfl.component import Count
from simfl.errors import ConfigError, one_line
from simfl.models.dropout import with_own_dropout
from simfl.models.spec import DataShape, ModelSpec, image_axes, num_outputs


@dataclass(frozen=True)
class TorchvisionModel(ModelSpec):
    """A classifier of torchvision, such as ``resnet50``; torchvision is installed separately.

    Most of them take images of three channels only.
    """

    name: ClassVar[str] = "torchvision"

    architecture: str
    """Its name in ``torchvision.models.list_models()``."""
    weights: str | None = None
    """Trained weights, such as ``DEFAULT`` or ``IMAGENET1K_V1``, which torchvision downloads; the
    last dense layer is a new one. null: random weights."""
    groups: Count | None = None
    """The groups of GroupNorm in place of BatchNorm, for models that take a ``norm_layer``; they
    must divide the channels of all layers. null: the model's own norms."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the model, by name."""
    outputs: Count | None = None
    """The number of outputs; by default one per class."""

    def build(self, shape: DataShape) -> nn.Module:
        """Build the module.

        Raises:
            ConfigError: if torchvision cannot be imported, or does not build such a model.
        """
        image_axes(self.name, shape)
        outputs = num_outputs(self.name, shape, self.outputs)
        try:
            from torchvision import models  # type: ignore[import-not-found]
        except Exception as error:  # beside another build of torch it is a RuntimeError
            raise ConfigError(
                f"model torchvision: torchvision cannot be imported ({one_line(error)}); install "
                "the torchvision of your torch's version and build, or use a model of simfl's own: "
                "resnet18, resnet34, mobilenet-v2 or vit"
            ) from error
        options = dict(self.arguments)
        if self.groups is not None:
            options["norm_layer"] = partial(nn.GroupNorm, self.groups)
        try:
            if self.weights is None:
                module = models.get_model(self.architecture, num_classes=outputs, **options)
            else:
                module = models.get_model(self.architecture, weights=self.weights, **options)
                _replace_last(module, outputs)
        except Exception as error:
            raise ConfigError(
                f"model torchvision: {self.architecture!r} cannot be built: {one_line(error)}"
            ) from error
        return with_own_dropout(module)


def _replace_last(module: nn.Module, outputs: int) -> None:
    """Put a new dense layer with so many outputs in place of the last one."""
    *_, (name, last) = ((n, m) for n, m in module.named_modules() if isinstance(m, nn.Linear))
    path, _, own = name.rpartition(".")
    setattr(module.get_submodule(path), own, nn.Linear(last.in_features, outputs))
