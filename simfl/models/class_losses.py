"""Losses of one class of several, whose classes may have weights.

Shapes: B examples, ... the axes of one target (none, or the positions of a sequence), V classes, N
rows. The mean over an example's axes is that example's loss.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from simfl.component import Fraction, NonNegative, Positive
from simfl.errors import ConfigError
from simfl.models.loss import Loss
from simfl.models.metric_sums import Array
from simfl.models.per_example import (
    IGNORED,
    counted_positions,
    match_classes,
    mean_over_counted,
)

_FEW_CLASSES: Final = 16
_MANY_ROWS: Final = 256

ClassWeights: TypeAlias = tuple[Positive, ...] | Literal["balanced"] | None
"""A weight for each class, or how they follow from the training examples."""


@dataclass(frozen=True)
class _OfClasses(Loss):
    """A loss of integer targets [B, ...] under logits [B, ..., V], perhaps weighted by class."""

    default_metrics: ClassVar[tuple[str, ...]] = ("accuracy",)

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's mean loss over its positions that count: [B]."""
        outputs, targets = match_classes(self.name, outputs, targets)
        return self.weighted(outputs, targets, self._class_weights(outputs))

    def weighted(self, outputs: Tensor, targets: Tensor, weights_V: Tensor | None) -> Tensor:
        """Return each example's mean loss with other weights of the classes: [B]."""
        if targets.dim() == 1 and not self._by_weights:
            return self._flat(outputs, targets, weights_V)
        losses = self._flat(outputs.flatten(0, -2), targets.flatten(), weights_V)
        means_B = mean_over_counted(losses.reshape(targets.shape), targets)
        if not self._by_weights:
            return means_B
        own_B = self.example_weights(targets)
        assert own_B is not None
        scale_B = counted_positions(targets) / torch.where(own_B > 0, own_B, 1.0)
        return means_B * scale_B.to(means_B.dtype)

    @property
    def mixes_weights(self) -> bool:
        """Whether what counts is averaged, so that an example weighs more among short ones."""
        return self._over != "examples"

    def example_weights(self, targets: Tensor) -> Tensor | None:
        """Return how many positions of each example count, or what they weigh; None: all as one."""
        if not self._by_weights:
            return counted_positions(targets) if self._over == "tokens" else None
        weights_V = self._class_weights(targets.new_empty(0, dtype=torch.float64))
        if weights_V is None:
            return counted_positions(targets)
        flat = weights_V[targets.long().clamp(min=0)] * (targets != IGNORED)
        return flat.reshape(len(targets), -1).sum(dim=1)

    def for_targets(self, targets: Iterable[Array]) -> Loss:
        """Return the loss with the weights that ``balanced`` stands for."""
        if self._weight != "balanced":
            return self
        counts = np.zeros(0, np.int64)
        for each in targets:
            if each.dtype.kind not in "iu":
                raise ConfigError(f"{self.name}: targets are {each.dtype}, but it is of classes")
            found = np.bincount(each[each != IGNORED])
            counts = np.pad(counts, (0, max(0, len(found) - len(counts))))
            counts[: len(found)] += found
        return self._with_weights(balanced_weights(counts))

    def _class_weights(self, like: Tensor) -> Tensor | None:
        """Return the weights of the classes, [V], in a tensor's type and on its device."""
        if isinstance(self._weight, str):
            raise ConfigError(
                f"{self.name}: the weights are 'balanced', but no population is known here; "
                "give numbers"
            )
        if self._weight is None:
            return None
        num_classes = like.shape[-1]
        if like.dim() > 1 and len(self._weight) != num_classes:
            raise ConfigError(
                f"{self.name}: there are {len(self._weight)} weights of classes, but "
                f"{num_classes} classes; give one for each"
            )
        return like.new_tensor(self._weight)

    @property
    def _over(self) -> str:
        raise NotImplementedError

    @property
    def _weight(self) -> tuple[float, ...] | str | None:
        raise NotImplementedError

    def _with_weights(self, weights: tuple[float, ...]) -> Loss:
        raise NotImplementedError

    @property
    def _by_weights(self) -> bool:
        return self._over == "weights"

    def _flat(
        self, outputs: Tensor, targets: Tensor, weights_V: Tensor | None, *, reduction: str = "none"
    ) -> Tensor:
        """Return the losses times their classes' weights of rows: [N, V] to [N]."""
        raise NotImplementedError


def balanced_weights(counts: Array) -> tuple[float, ...]:
    """Return n / (K n_k) for each class: of K classes with examples, all weigh the same in sum.

    It is scikit-learn's ``compute_class_weight("balanced")``. Classes without examples weigh 1.

    >>> balanced_weights(np.array([1, 3]))
    (2.0, 0.6666666666666666)
    """
    total, num_present = counts.sum(), (counts > 0).sum()
    return tuple(float(total / (num_present * count)) if count else 1.0 for count in counts)


@dataclass(frozen=True)
class CrossEntropy(_OfClasses):
    """Minus the log-likelihood of integer targets [B, ...] under logits [B, ..., V].

    The classes are the last axis, as sequence models return them; in ``torch.nn.CrossEntropyLoss``
    they are the second. Positions with target -100 do not count.
    """

    name: ClassVar[str] = "cross-entropy"
    label_smoothing: Fraction = 0.0
    """The fraction of the target's probability that is distributed over all classes."""
    over: Literal["examples", "tokens", "weights"] = "examples"
    """What a batch's loss is the mean over: its examples, each the mean over its positions; all
    positions that count, as in transformers, so that long examples weigh more; or these by their
    ``weight``, as in torch."""
    weight: ClassWeights = None
    """What the loss of an example of each class is multiplied by. balanced: n / (K n_k) for class k
    with n_k of the n training examples of all clients, of K classes. null: by 1."""

    def mean(
        self, outputs: Tensor, targets: Tensor, sample_weights: Tensor | None = None
    ) -> Tensor:
        """Return the mean over the batch, with torch's fused kernel if there are no weights."""
        is_plain = self.over == "examples" and sample_weights is None and self.weight is None
        if not is_plain or targets.dim() != 1:
            return super().mean(outputs, targets, sample_weights)
        return self._flat(*match_classes(self.name, outputs, targets), None, reduction="mean")

    @property
    def _over(self) -> str:
        return self.over

    @property
    def _weight(self) -> tuple[float, ...] | str | None:
        return self.weight

    def _with_weights(self, weights: tuple[float, ...]) -> Loss:
        return replace(self, weight=weights)

    def _flat(
        self, outputs: Tensor, targets: Tensor, weights_V: Tensor | None, *, reduction: str = "none"
    ) -> Tensor:
        num_rows, num_classes = outputs.shape
        _require_several(self.name, num_classes)
        is_tall = num_rows >= _MANY_ROWS and num_classes < _FEW_CLASSES
        if is_tall and outputs.device.type == "cpu" and not self.label_smoothing:
            # torch works along the rows, which are shorter than a processor's vectors.
            log_shares = outputs.T.contiguous().log_softmax(dim=0).T
            return F.nll_loss(log_shares, targets, weights_V, reduction=reduction)
        return F.cross_entropy(
            outputs,
            targets,
            weights_V,
            reduction=reduction,
            label_smoothing=self.label_smoothing,
        )


@dataclass(frozen=True)
class Focal(_OfClasses):
    """Cross-entropy with less weight where the prediction is good: -alpha (1 - p)^gamma log p.

    p is the probability of the target, and alpha the weight of its class. Positions with target
    -100 do not count.

    Source: Lin et al., 2017, equations 4 and 5, https://arxiv.org/abs/1708.02002
    """

    name: ClassVar[str] = "focal"
    gamma: NonNegative = 2.0
    """How much less; 0 is cross-entropy."""
    alpha: ClassWeights = None
    """The weight of each class. balanced: as ``weight`` of cross-entropy. null: 1."""
    over: Literal["examples", "tokens", "weights"] = "examples"
    """As that of cross-entropy."""

    @property
    def _over(self) -> str:
        return self.over

    @property
    def _weight(self) -> tuple[float, ...] | str | None:
        return self.alpha

    def _with_weights(self, weights: tuple[float, ...]) -> Loss:
        return replace(self, alpha=weights)

    def _flat(
        self, outputs: Tensor, targets: Tensor, weights_V: Tensor | None, *, reduction: str = "none"
    ) -> Tensor:
        _require_several(self.name, outputs.shape[1])
        losses = F.cross_entropy(outputs, targets, reduction="none")
        losses = focused(losses, self.gamma)
        return losses if weights_V is None else losses * weights_V[targets.clamp(min=0)]


def focused(losses: Tensor, gamma: float) -> Tensor:
    """Return -(1 - p)^gamma log p of losses -log p, in their shape."""
    # Where p is 1, the derivative of a power below 1 is infinite, and the loss is 0 anyway.
    missing = -torch.expm1(-losses)
    tiny = torch.finfo(missing.dtype).tiny
    return missing.clamp(min=tiny) ** gamma * losses


def _require_several(name: str, num_classes: int) -> None:
    if num_classes == 1:
        raise ConfigError(
            f"{name}: with one output, a single class, the loss is always 0; use "
            "targets of two classes, or bce-with-logits for targets of 0 and 1"
        )
