"""Losses: one number per example, so that examples can be weighted and clipped.

Shapes: B examples, ... the axes of one target (none, or the positions of a sequence). The mean over
an example's axes is that example's loss. Those of classes are in ``class_losses``.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, ClassVar, Final, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from simfl.component import Fraction, NonNegative, Positive
from simfl.errors import ConfigError
from simfl.models.class_losses import CrossEntropy, Focal, focused
from simfl.models.loss import Loss
from simfl.models.metric_sums import Array
from simfl.models.per_example import (
    is_elementwise,
    match_shapes,
    mean_over_axes,
    require_tensor,
)
from simfl.optimizer.specs import build_component
from simfl.plugins import GIVEN, import_object, path_of

LossLike: TypeAlias = (
    "Loss | str | tuple[str, Mapping[str, Any]] | nn.Module | Callable[[Any, Tensor], Tensor]"
)
"""A loss, its name, its name and hyper-parameters, or a torch loss: a module or a function."""


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
    pos_weight: Positive | tuple[Positive, ...] | Literal["balanced"] | None = None
    """What the loss of positive targets is multiplied by, as in torch: a number, or one for each of
    the last axis, such as labels. balanced: how many negative ones there are for each positive
    one among the training examples of all clients. null: 1."""

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        weight = self.pos_weight
        if isinstance(weight, str):
            raise ConfigError(
                f"{self.name}: pos_weight is 'balanced', but no population is known here; "
                "give a number"
            )
        if isinstance(weight, tuple) and len(weight) != targets.shape[-1]:
            raise ConfigError(
                f"{self.name}: pos_weight has {len(weight)} numbers, but targets have shape "
                f"{list(targets.shape)}; give one number, or {targets.shape[-1]}"
            )
        return F.binary_cross_entropy_with_logits(
            outputs,
            targets,
            reduction="none",
            pos_weight=None if weight is None else outputs.new_tensor(weight),
        )

    def for_targets(self, targets: Iterable[Array]) -> Loss:
        """Return the loss with the weights that ``balanced`` stands for."""
        if self.pos_weight != "balanced":
            return self
        positive: Any = 0.0
        count = 0
        for each in targets:
            flat = each.reshape(-1, each.shape[-1]) if each.ndim > 1 else each.reshape(-1, 1)
            positive, count = positive + (flat > 0.5).sum(axis=0), count + len(flat)
        if (positive == 0).any() or (positive == count).any():
            raise ConfigError(
                f"{self.name}: pos_weight is 'balanced', but some targets are all the same; give "
                "a number"
            )
        weights = tuple(((count - positive) / positive).tolist())
        return replace(self, pos_weight=weights if len(weights) > 1 else weights[0])


@dataclass(frozen=True)
class BinaryFocal(_Elementwise):
    """Focal loss of targets of 0 and 1 under logits of the same shape [B, ...].

    -alpha_t (1 - p_t)^gamma log p_t, where p_t is the probability of the target, and alpha_t is
    alpha for 1 and 1 - alpha for 0.

    Source: Lin et al., 2017, equation 5, https://arxiv.org/abs/1708.02002
    """

    name: ClassVar[str] = "binary-focal"
    default_metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    gamma: NonNegative = 2.0
    """How much less predictions weigh that are good; 0 is binary cross-entropy."""
    alpha: Fraction | None = None
    """The weight of positive targets; the paper's is 0.25. null: both weigh 1."""

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
        losses = focused(losses, self.gamma)
        if self.alpha is None:
            return losses
        return losses * (self.alpha * targets + (1 - self.alpha) * (1 - targets))


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
        if not self.path.startswith(GIVEN):
            _ = self._loss

    def per_example(self, outputs: Any, targets: Tensor) -> Tensor:
        """Return the function's losses, reduced to [B]."""
        return self._loss.per_example(outputs, targets)

    def to(self, device: torch.device | str) -> None:
        """Move the module if it is one."""
        self._loss.to(device)

    @cached_property
    def _loss(self) -> Loss:
        return self._from(import_object(self.path))

    def _from(self, given: Any) -> Loss:
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


@dataclass(frozen=True)
class GivenLoss(PythonLoss):
    """A function or module that was given as an object in Python."""

    @classmethod
    def of(cls, given: Any) -> GivenLoss:
        """Return the loss of an object."""
        made = cls(path_of(given))
        object.__setattr__(made, "_given", given)
        return made

    @cached_property
    def _loss(self) -> Loss:
        return self._from(vars(self)["_given"])

    def __getstate__(self) -> dict[str, Any]:
        return vars(self)


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


_PER_EXAMPLE: Final = frozenset(
    {CrossEntropy, Focal, BCEWithLogits, BinaryFocal, MSE, MAE, Huber, ModelOutput}
)
