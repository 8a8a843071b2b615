"""Losses that look at more than each example's outputs; each changes another loss, ``of``.

They are differentiated as a whole (``Loss.of_batch``), and evaluated as the loss that they change.

Shapes: B examples, ... the axes of one target (none, or the positions of a sequence), V classes, D
numbers of a representation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from simfl.component import Fraction, NonNegative, Positive
from simfl.errors import ConfigError
from simfl.models.class_losses import CrossEntropy, Focal
from simfl.models.loss import Loss, needs_weights
from simfl.models.losses import as_loss
from simfl.models.metric_sums import Array
from simfl.models.model import Batch, take_examples
from simfl.models.per_example import IGNORED, match_classes, mean_over_counted
from simfl.vector import widened

if TYPE_CHECKING:
    from simfl.models.model_function import ModelFunction, Weights
    from simfl.models.torch_model import TorchModel


@dataclass(frozen=True, kw_only=True)
class ChangedLoss(Loss):
    """Base class of losses that change another one in training.

    A subclass overrides ``of_outputs`` if it needs no more than a batch's outputs and targets, and
    ``of_batch`` otherwise.
    """

    of: Loss = field(default_factory=CrossEntropy)
    """The loss that it changes, which is also the one that is evaluated."""

    def __post_init__(self) -> None:
        """Build the inner loss from any of the forms of ``LossLike``."""
        object.__setattr__(self, "of", as_loss(self.of))
        super().__post_init__()

    @property
    def default_metrics(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the innermost loss."""
        return self.of.default_metrics

    @property
    def takes_numbers(self) -> bool:  # type: ignore[override]
        """Whether the innermost loss compares one output with each target."""
        return self.of.takes_numbers

    @property
    def evaluated(self) -> Loss:
        """The innermost loss."""
        return self.of.evaluated

    @property
    def uses_broadcast(self) -> bool:
        """Whether this loss or the one that it changes needs the round's first weights."""
        return self.of.uses_broadcast

    def per_example(self, outputs: Any, targets: Tensor) -> Tensor:
        """Return the innermost loss of each example: [B]."""
        return self.of.per_example(outputs, targets)

    def mean(self, outputs: Any, targets: Tensor, sample_weights: Tensor | None = None) -> Tensor:
        """Return the innermost loss's mean over the batch."""
        return self.of.mean(outputs, targets, sample_weights)

    @property
    def mixes_weights(self) -> bool:
        """Whether the innermost loss's weights of examples depend on the batch."""
        return self.of.mixes_weights

    def example_weights(self, targets: Tensor) -> Tensor | None:
        """Return those of the innermost loss: [B] or None."""
        return self.of.example_weights(targets)

    def statistics(self, model: TorchModel, batch: Batch) -> Mapping[str, Tensor]:
        """Return those of the loss that it changes."""
        return self.of.statistics(model, batch)

    def for_targets(self, targets: Iterable[Array]) -> Loss:
        """Return it with the inner loss for a population that trains on these targets."""
        inner = self.of.for_targets(targets)
        return self if inner is self.of else replace(self, of=inner)

    def to(self, device: torch.device | str) -> None:
        """Move the inner loss."""
        self.of.to(device)


@dataclass(frozen=True, kw_only=True)
class SAM(ChangedLoss):
    """Sharpness-aware minimisation: the loss at the worst weights nearby, w + rho g / |g|.

    g is the gradient at w, over all trained tensors together; a step costs two. BatchNorm's
    running statistics follow w, and not the weights nearby.

    Source: Foret et al., 2021, eq. 2 and 3, https://arxiv.org/abs/2010.01412; on clients (FedSAM):
    Qu et al., 2022, https://arxiv.org/abs/2206.02618; Caldarola et al., 2022,
    https://arxiv.org/abs/2203.11834
    """

    name: ClassVar[str] = "sam"
    rho: Positive = 0.05
    """The distance of the weights nearby, in the L2 norm."""

    def of_batch(
        self, model: ModelFunction, weights: Weights, batch: Batch, given: Mapping[str, Any]
    ) -> Tensor:
        """Return the inner loss at w + rho g / |g|, whose gradient is taken there: 0-d."""

        def inner(weights: Weights) -> Tensor:
            return self.of.of_batch(model, weights, batch, given)

        gradients = model.gradients(inner, weights)
        norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
        scale = torch.where(norm > 0, self.rho / norm, 0.0)
        near = {
            name: weight + (scale * gradients[name]).to(weight.dtype)
            for name, weight in weights.items()
        }
        return self.of.of_batch(model.with_own_buffers(), near, batch, given)


@dataclass(frozen=True, kw_only=True)
class _OfClassCounts(ChangedLoss):
    """A loss that changes the logits by how many examples of each class the client has."""

    def check(self) -> None:
        """Refuse an inner loss that is not one of logits and classes."""
        if needs_weights(self.of):
            raise ConfigError(
                f"{self.name}: of is {self.of.name!r}, which needs the model's weights; change the "
                f"one by the other instead: [{self.of.name}, {{of: {self.name}}}]"
            )
        _require_classes(self)

    def of_outputs(self, outputs: Any, batch: Batch, given: Mapping[str, Any]) -> Tensor:
        """Return the inner loss of the changed logits: 0-d."""
        outputs, _ = match_classes(self.name, outputs, batch.targets)
        return self.of.of_outputs(self._changed(outputs, given["class_counts"]), batch, given)

    def statistics(self, model: TorchModel, batch: Batch) -> Mapping[str, Tensor]:
        """Return how many targets are of each class: ``class_counts``, [V], int64."""
        outputs = model.evaluation_outputs(take_examples(batch, slice(1)))
        first = batch.targets[:1]
        num_classes = match_classes(self.name, outputs, first)[0].shape[-1]
        targets = batch.targets.long().flatten()
        counts = targets[targets != IGNORED].bincount(minlength=num_classes)
        return {**super().statistics(model, batch), "class_counts": counts[:num_classes]}

    @property
    def is_mean(self) -> bool:
        """Whether the loss that it changes is a mean; counts are the client's, in any batch."""
        return self.of.is_mean

    def _changed(self, logits: Tensor, counts_V: Tensor) -> Tensor:
        """Return the changed logits, [B, ..., V]."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class FedLC(_OfClassCounts):
    """Logits calibration: tau n_c^(-1/4) is subtracted from the logit of class c.

    n_c is how many examples of the class the client has. A class without examples does not take
    part in the softmax. The softmax's sum is over all classes, as in the paper's form with pairwise
    margins; the form that is printed with calibrated logits leaves out the example's own class,
    and would have no minimum.

    Source: Zhang et al., 2022, section 4, https://arxiv.org/abs/2209.00189
    """

    name: ClassVar[str] = "fedlc"
    tau: Positive = 1.0
    """How strongly logits are calibrated."""

    def check(self) -> None:
        """Refuse an inner loss with which classes without examples have no meaning."""
        super().check()
        smoothing = getattr(self.of.evaluated, "label_smoothing", 0.0)
        if smoothing:
            raise ConfigError(
                f"{self.name}: of has label_smoothing {smoothing}, which gives a share of the "
                "target to classes that the client does not have; remove it"
            )

    def _changed(self, logits: Tensor, counts_V: Tensor) -> Tensor:
        return logits - self.tau * counts_V.to(logits.dtype).pow(-0.25)


@dataclass(frozen=True, kw_only=True)
class FedRS(_OfClassCounts):
    """Restricted softmax: the logits of classes that a client does not have are scaled by alpha.

    Source: Li and Zhan, 2021, section 4, https://doi.org/10.1145/3447548.3467254
    """

    name: ClassVar[str] = "fedrs"
    alpha: Fraction = 0.5
    """The factor of the logits of missing classes; 1 is the plain softmax."""

    def _changed(self, logits: Tensor, counts_V: Tensor) -> Tensor:
        return logits * torch.where(counts_V > 0, 1.0, self.alpha).to(logits.dtype)


@dataclass(frozen=True, kw_only=True)
class Balanced(_OfClassCounts):
    """Class weights of each client: n / (K n_c) for class c with n_c of the client's n examples.

    K is how many classes the client has; others weigh 0. Clients share no counts, as they would for
    ``weight: balanced`` of the inner loss, and minimise different objectives.
    """

    name: ClassVar[str] = "balanced"

    def check(self) -> None:
        """Refuse an inner loss that has no class weights to replace."""
        super().check()
        if not isinstance(self.of, CrossEntropy | Focal):
            raise ConfigError(
                f"{self.name}: of is {self.of.name!r}, which has no class weights; use "
                "cross-entropy or focal"
            )

    def of_outputs(self, outputs: Any, batch: Batch, given: Mapping[str, Any]) -> Tensor:
        """Return the mean over the batch of the weighted losses: 0-d."""
        assert isinstance(self.of, CrossEntropy | Focal)
        outputs, targets = match_classes(self.name, outputs, batch.targets)
        counts_V = given["class_counts"].to(outputs.dtype)
        share_V = counts_V.sum() / (counts_V > 0).sum().clamp(min=1)
        weights_V = torch.where(counts_V > 0, share_V / counts_V.clamp(min=1), 0.0)
        losses_B = self.of.weighted(outputs, targets, weights_V)
        return self.average(losses_B, batch.targets, batch.sample_weights)


@dataclass(frozen=True, kw_only=True)
class FedDecorr(ChangedLoss):
    """Adds beta / D^2 times the squared Frobenius norm of the representation's correlations.

    The representation is the input of a layer, usually of the last one. Numbers that are the same
    for all examples of a batch count as uncorrelated, and so does a batch of one example.

    Source: Shi et al., 2023, section 4, https://arxiv.org/abs/2210.00226
    """

    name: ClassVar[str] = "feddecorr"
    layer: str
    """The layer whose input is the representation: ``output`` for simfl's own models."""
    beta: NonNegative = 0.1
    """The weight of the term."""

    def check(self) -> None:
        """Refuse an inner loss that is not one of outputs and targets."""
        _require_of_outputs(self)

    def of_batch(
        self, model: ModelFunction, weights: Weights, batch: Batch, given: Mapping[str, Any]
    ) -> Tensor:
        """Return the inner loss and the term: 0-d."""
        outputs, features_BD = model.features(weights, batch.inputs, self.layer)
        if features_BD.dim() != 2:
            raise ConfigError(
                f"{self.name}: the input of layer {self.layer!r} has shape "
                f"{list(features_BD.shape)}; name a layer that gets one vector per example"
            )
        loss = self.of.of_outputs(outputs, batch, given)
        correlations_DD = _correlations(widened(features_BD), batch.sample_weights)
        term = self.beta / features_BD.shape[1] ** 2 * correlations_DD.square().sum()
        return loss + term.to(loss.dtype)


@dataclass(frozen=True, kw_only=True)
class Distillation(ChangedLoss):
    """Adds strength T^2 KL(teacher || student); the teacher has the round's first weights.

    Both distributions are softmaxes of the logits over the temperature T. The teacher is in
    evaluation mode, and its outputs are computed at each step. With strength gamma / 2, this is
    FedGKD with a buffer of one model; with ``not_true``, it is FedNTD.

    Source: Hinton et al., 2015, https://arxiv.org/abs/1503.02531; FedGKD: Yao et al., 2021,
    https://arxiv.org/abs/2107.00051; FedNTD: Lee et al., 2022, section 4,
    https://arxiv.org/abs/2106.03097
    """

    name: ClassVar[str] = "distillation"
    strength: NonNegative = 1.0
    """The weight of the term."""
    temperature: Positive = 1.0
    """What logits are divided by: the higher, the more even the distributions."""
    not_true: bool = False
    """Whether an example's own class is excluded from both distributions."""

    def check(self) -> None:
        """Refuse an inner loss that is not one of logits and classes."""
        _require_of_outputs(self)
        _require_classes(self)

    @property
    def uses_broadcast(self) -> bool:
        """Whether it needs the round's first weights: yes."""
        return True

    @property
    def is_mean(self) -> bool:
        """Whether the loss that it changes is a mean, as its term is."""
        return self.of.is_mean

    def of_batch(
        self, model: ModelFunction, weights: Weights, batch: Batch, given: Mapping[str, Any]
    ) -> Tensor:
        """Return the inner loss and the term: 0-d."""
        outputs = model(weights, batch.inputs)
        teacher = model.predict(given["broadcast"], batch.inputs)
        loss = self.of.of_outputs(outputs, batch, given)
        logits, targets = match_classes(self.name, outputs, batch.targets)
        divergences = self._divergences(logits, teacher, targets) * (targets != IGNORED)
        divergences_B = mean_over_counted(divergences, targets)
        term = self.average(divergences_B, batch.targets, batch.sample_weights)
        return loss + self.strength * self.temperature**2 * term

    def _divergences(self, student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
        """Return KL(teacher || student) of each target: [B, ...]."""
        is_out = torch.zeros_like(student, dtype=torch.bool)
        if self.not_true:
            classes_V = torch.arange(student.shape[-1], device=student.device)
            is_out = classes_V == targets.unsqueeze(-1)
        logs, teachers = (
            F.log_softmax(logits.masked_fill(is_out, -torch.inf) / self.temperature, dim=-1)
            for logits in (student, teacher)
        )
        gaps = (teachers - logs).masked_fill(is_out, 0.0)  # -inf minus -inf is no number
        return (teachers.exp() * gaps).sum(dim=-1)


def _require_of_outputs(loss: ChangedLoss) -> None:
    if needs_weights(loss.of):
        raise ConfigError(
            f"{loss.name}: of is {loss.of.name!r}, which needs the model's weights itself; only "
            "'sam' can change such a loss: [sam, {of: ...}]"
        )


def _require_classes(loss: ChangedLoss) -> None:
    if loss.takes_numbers:
        raise ConfigError(
            f"{loss.name}: of is {loss.evaluated.name!r}, which compares one output with each "
            "target, but classes are needed; use cross-entropy"
        )


def _correlations(features_BD: Tensor, sample_weights_B: Tensor | None) -> Tensor:
    """Return the correlation coefficients of the features over the examples: [D, D]."""
    if sample_weights_B is None:
        sample_weights_B = features_BD.new_ones(len(features_BD))
    shares_B1 = (sample_weights_B / sample_weights_B.sum()).unsqueeze(1).to(features_BD.dtype)
    centred = features_BD - (shares_B1 * features_BD).sum(dim=0)
    variances_D = (shares_B1 * centred.square()).sum(dim=0)
    # What rounding leaves of a constant's variance is none; at 0 the root has no derivative.
    rounding = 8 * torch.finfo(features_BD.dtype).eps
    squares_D = (shares_B1 * features_BD.square()).sum(dim=0)
    is_flat = variances_D <= rounding**2 * squares_D
    scales_D = torch.where(is_flat, 0.0, torch.where(is_flat, 1.0, variances_D).rsqrt())
    standard = centred * scales_D
    return (shares_B1 * standard).T @ standard
