"""Losses: one number per example, so that examples can be weighted and clipped.

Shapes: B examples, ... the axes of one target (none, or the positions of a sequence), V classes.
The mean over an example's axes is that example's loss.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar, Final, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from simfl.component import Fraction, Positive
from simfl.errors import ConfigError
from simfl.models.loss import Loss
from simfl.models.per_example import (
    counted_positions,
    is_elementwise,
    match_classes,
    match_shapes,
    mean_over_axes,
    mean_over_counted,
    require_tensor,
)
from simfl.optimizer.specs import build_component
from simfl.plugins import import_object

_FEW_CLASSES: Final = 16
_MANY_ROWS: Final = 256


LossLike: TypeAlias = (
    "Loss | str | tuple[str, Mapping[str, Any]] | nn.Module | Callable[[Any, Tensor], Tensor]"
)
"""A loss, its name, its name and hyper-parameters, or a torch loss: a module or a function."""


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Minus the log-likelihood of integer targets [B, ...] under logits [B, ..., V].

    The classes are the last axis, as sequence models return them; in ``torch.nn.CrossEntropyLoss``
    they are the second. Positions with target -100 do not count.
    """

    name: ClassVar[str] = "cross-entropy"
    default_metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    label_smoothing: Fraction = 0.0
    """The fraction of the target's probability that is distributed over all classes."""
    over: Literal["examples", "tokens"] = "examples"
    """What a batch's loss is the mean over: its examples, each the mean over its positions; or all
    positions that count, as in transformers, so that long examples weigh more."""

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's mean cross-entropy over its positions that count: [B]."""
        outputs, targets = match_classes(self.name, outputs, targets)
        if targets.dim() == 1:
            return self._flat(outputs, targets)
        losses = self._flat(outputs.flatten(0, -2), targets.flatten())
        return mean_over_counted(losses.reshape(targets.shape), targets)

    def mean(
        self, outputs: Tensor, targets: Tensor, sample_weights: Tensor | None = None
    ) -> Tensor:
        """Return the mean over the batch, with torch's fused kernel if there are no weights."""
        if self.over == "tokens" or sample_weights is not None or targets.dim() != 1:
            return super().mean(outputs, targets, sample_weights)
        return self._flat(*match_classes(self.name, outputs, targets), reduction="mean")

    @property
    def mixes_weights(self) -> bool:
        """Whether positions are averaged, so that an example weighs more among short ones."""
        return self.over == "tokens"

    def example_weights(self, targets: Tensor) -> Tensor | None:
        """Return how many positions of each example count, if the mean is over those: [B]."""
        return counted_positions(targets) if self.over == "tokens" else None

    def _flat(self, outputs: Tensor, targets: Tensor, *, reduction: str = "none") -> Tensor:
        num_rows, num_classes = outputs.shape
        if num_classes == 1:
            raise ConfigError(
                f"{self.name}: with one output, a single class, the loss is always 0; use "
                "targets of two classes, or bce-with-logits for targets of 0 and 1"
            )
        is_tall = num_rows >= _MANY_ROWS and num_classes < _FEW_CLASSES
        if is_tall and outputs.device.type == "cpu" and not self.label_smoothing:
            # torch works along the rows, which are shorter than a processor's vectors.
            log_shares = outputs.T.contiguous().log_softmax(dim=0).T
            return F.nll_loss(log_shares, targets, reduction=reduction)
        return F.cross_entropy(
            outputs, targets, reduction=reduction, label_smoothing=self.label_smoothing
        )


@dataclass(frozen=True)
class _Elementwise(Loss):
    """A loss that compares one output with each target; both have the same shape [B, ...]."""

    takes_numbers: ClassVar[bool] = True

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over the targets of each example: [B]."""
        return mean_over_axes(self._losses(*match_shapes(self.name, outputs, targets)))

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each target, in their shape."""
        raise NotImplementedError


@dataclass(frozen=True)
class BCEWithLogits(_Elementwise):
    """Binary cross-entropy of targets in 0..1 under logits of the same shape [B, ...]."""

    name: ClassVar[str] = "bce-with-logits"
    default_metrics: ClassVar[tuple[str, ...]] = ("accuracy",)

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")


@dataclass(frozen=True)
class MSE(_Elementwise):
    """The squared difference of outputs and targets of the same shape [B, ...]."""

    name: ClassVar[str] = "mse"
    default_metrics: ClassVar[tuple[str, ...]] = ("mae",)

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets, reduction="none")


@dataclass(frozen=True)
class MAE(_Elementwise):
    """The absolute difference of outputs and targets of the same shape [B, ...]."""

    name: ClassVar[str] = "mae"
    default_metrics: ClassVar[tuple[str, ...]] = ("mse",)

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.l1_loss(outputs, targets, reduction="none")


@dataclass(frozen=True)
class Huber(_Elementwise):
    """Half the squared difference up to ``delta``, linear beyond (Huber, 1964)."""

    name: ClassVar[str] = "huber"
    default_metrics: ClassVar[tuple[str, ...]] = ("mae",)
    delta: Positive = 1.0
    """The difference from which on the loss is linear."""

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.huber_loss(outputs, targets, reduction="none", delta=self.delta)


@dataclass(frozen=True)
class ModelOutput(Loss):
    """The model's output itself, one number per example; targets are not used."""

    name: ClassVar[str] = "output"

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the outputs: [B]."""
        return require_tensor(self.name, outputs)


@dataclass(frozen=True)
class CallableLoss(Loss):
    """A loss given as a callable of (outputs, targets)."""

    function: Callable[..., Any]
    """Returns one number per example: [B], or [B, ...] if ``axes`` is set."""
    axes: Literal["mean", "sum"] | None = None
    """How the axes after the first are reduced; None: there must be none."""

    def per_example(self, outputs: Any, targets: Tensor) -> Tensor:
        """Return the function's losses, reduced to [B]."""
        losses: Tensor = self.function(outputs, targets)
        if self.axes is None or not isinstance(losses, Tensor) or losses.dim() < 2:
            return losses
        if losses.shape not in (outputs.shape, targets.shape) and (
            is_elementwise(outputs, targets) or is_elementwise(targets, outputs)
        ):
            raise ConfigError(
                f"the loss has shape {list(losses.shape)} for outputs {list(outputs.shape)} and "
                f"targets {list(targets.shape)}; drop the axis of length 1 in the module "
                "with squeeze(-1)"
            )
        return losses.flatten(1).sum(dim=1) if self.axes == "sum" else mean_over_axes(losses)

    def to(self, device: torch.device | str) -> None:
        """Move the function if it is a module."""
        if isinstance(self.function, nn.Module):
            self.function.to(device)


@dataclass(frozen=True)
class PythonLoss(Loss):
    """A function of yours: (outputs, targets, arguments by name) to one number per example.

    A function with a parameter ``reduction``, such as those of ``torch.nn.functional``, is called
    with "none", and the mean is taken over the axes of an example. A module class, such as those of
    ``torch.nn``, is instantiated with the arguments, and the module is called in the same way.
    """

    name: ClassVar[str] = "python"
    runs_code: ClassVar[bool] = True

    path: str
    """Its import path: package.module:function."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments besides outputs and targets; for a class, those of its constructor."""

    def check(self) -> None:
        """Import the function, so that a wrong path is reported before anything runs."""
        _ = self._loss

    def per_example(self, outputs: Any, targets: Tensor) -> Tensor:
        """Return the function's losses, reduced to [B]."""
        return self._loss.per_example(outputs, targets)

    def to(self, device: torch.device | str) -> None:
        """Move the module if it is one."""
        self._loss.to(device)

    @cached_property
    def _loss(self) -> Loss:
        given = import_object(self.path)
        if isinstance(given, type):
            return _from_module(self._make(given))
        if isinstance(given, nn.Module) and not self.arguments:
            return _from_module(given)
        if not callable(given):
            raise ConfigError(f"loss: {self.path!r} is not a function")
        return _from_callable(given, self.arguments)

    def _make(self, given: type) -> nn.Module:
        if not issubclass(given, nn.Module):
            raise ConfigError(
                f"loss: {self.path!r} is a class; name a function of outputs and targets, or a "
                "class of torch.nn.Module"
            )
        try:
            return given(**self.arguments)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise ConfigError(f"loss: {self.path!r} with {self.arguments}: {what}") from error

    def __getstate__(self) -> dict[str, Any]:
        return self.get_config()  # the receiving process imports it again


def is_per_example(loss: Loss) -> bool:
    """Return whether an example's loss is known not to depend on the rest of its batch.

    Losses that users define, or derive from these, may depend on it although they should not.
    """
    return type(loss.evaluated) in _PER_EXAMPLE


def as_loss(given: LossLike) -> Loss:
    """Build a loss from any of the forms of ``LossLike``.

    A torch module with a ``reduction`` is copied and set to "none"; its previous reduction is
    applied to each example's own axes: ``torch.nn.MSELoss()`` is the mean over them.

    Raises:
        UnknownNameError: (a KeyError) for a name that is not registered.
        ConfigError: for anything else.
    """
    if isinstance(given, nn.Module):
        return _from_module(given)
    if callable(given) and not isinstance(given, Loss | type):
        return _from_callable(given)
    return build_component(Loss, given, place="loss")


def _from_module(module: nn.Module) -> Loss:
    module = copy.deepcopy(module)
    if not hasattr(module, "reduction"):
        return CallableLoss(module)
    axes: Literal["mean", "sum"] = "sum" if module.reduction == "sum" else "mean"
    module.reduction = "none"  # type: ignore[assignment]
    return CallableLoss(module, axes)


def _from_callable(
    function: Callable[..., Any], arguments: Mapping[str, Any] | None = None
) -> CallableLoss:
    arguments = dict(arguments or {})
    if not _has_reduction(function):
        return CallableLoss(partial(function, **arguments) if arguments else function)
    return CallableLoss(partial(function, **{"reduction": "none"} | arguments), "mean")


def _has_reduction(function: Callable[..., Any]) -> bool:
    try:
        return "reduction" in inspect.signature(function).parameters
    except ValueError:  # functions written in C have no signature
        return False


_PER_EXAMPLE: Final = frozenset({CrossEntropy, BCEWithLogits, MSE, MAE, Huber, ModelOutput})
