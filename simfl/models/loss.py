"""Loss: what a step minimises, and what is evaluated.

Shapes: B examples, ... the axes of one target (none, or the positions of a sequence).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from simfl.component import Component
from simfl.errors import ConfigError
from simfl.models.metric_sums import Array
from simfl.models.model import Batch
from simfl.models.per_example import join_weights, require_one_each, weighted_mean

if TYPE_CHECKING:
    from simfl.models.model_function import ModelFunction, Weights
    from simfl.models.torch_model import TorchModel


class Loss(Component, kind="loss"):
    """The objective: a differentiable number per example."""

    default_metrics: ClassVar[tuple[str, ...]] = ()
    """The names of the metrics that are evaluated with it by default."""

    takes_numbers: ClassVar[bool] = False
    """Whether it compares one output with each target, so that integer targets are no classes."""

    def per_example(self, outputs: Any, targets: Tensor) -> Tensor:
        """Return the loss of each example: [B].

        Args:
            outputs: the module's outputs for B examples.
            targets: [B, ...].

        Raises:
            ConfigError: if the outputs' shape does not fit the targets'.
        """
        raise NotImplementedError(f"{type(self).__name__} has no per_example()")

    def to(self, device: torch.device | str) -> None:
        """Move the loss's tensors, such as class weights, to a device."""

    def for_targets(self, targets: Iterable[Array]) -> Loss:
        """Return the loss for a population that trains on these; by default the loss itself.

        Args:
            targets: [N, ...] of some examples at a time; read only if it depends on them.
        """
        return self

    def __call__(self, outputs: Any, targets: Tensor) -> Tensor:
        """Return ``per_example`` and check its shape.

        Raises:
            ConfigError: unless it is one number per example.
        """
        return require_one_each("the loss", self.per_example(outputs, targets), targets)

    def mean(self, outputs: Any, targets: Tensor, sample_weights: Tensor | None = None) -> Tensor:
        """Return the mean over the batch of weight_i times loss i: 0-d.

        Args:
            outputs: the module's outputs for B examples.
            targets: [B, ...].
            sample_weights: [B]; None is 1 for all.
        """
        return self.average(self(outputs, targets), targets, sample_weights)

    def example_weights(self, targets: Tensor) -> Tensor | None:
        """Return how much each example weighs in a mean: [B]; None: all weigh the same.

        Args:
            targets: [B, ...].
        """
        return None

    def average(self, values: Tensor, targets: Tensor, sample_weights: Tensor | None) -> Tensor:
        """Return the mean of a value of each example by their weights: [B] to 0-d.

        Args:
            values: [B].
            targets: [B, ...].
            sample_weights: [B]; None is 1 for all.
        """
        own = self.example_weights(targets)
        if own is None:
            return weighted_mean(values, sample_weights)
        weights = join_weights(sample_weights, own.to(values.dtype))
        total = weights.sum()
        return (values * weights).sum() / torch.where(total > 0, total, 1)

    def of_batch(
        self, model: ModelFunction, weights: Weights, batch: Batch, given: Mapping[str, Any]
    ) -> Tensor:
        """Return what a step minimises: 0-d; by default the weighted mean over the examples.

        A loss that depends on more than each example's outputs overrides it, or ``of_outputs``. It
        is then differentiated as a whole, with ``torch.func.vmap`` in a stack of clients, so that
        it must be written for tensors: no ``if`` on their numbers, no ``item()``.

        Args:
            model: the client's model as a function of its weights.
            weights: the trained ones, by name.
            batch: B examples. Weights of the examples average to 1; in stacks, those that fill up
                a short batch weigh 0.
            given: the sums of ``statistics`` over all of the client's training examples, by name;
                and, where ``uses_broadcast``, "broadcast": all weights that the round has started
                from, by name.
        """
        return self.of_outputs(model(weights, batch.inputs), batch, given)

    def of_outputs(self, outputs: Any, batch: Batch, given: Mapping[str, Any]) -> Tensor:
        """Return the same for the model's outputs, where no more of the model is needed: 0-d.

        Args:
            outputs: of the batch.
            batch: as for ``of_batch``.
            given: as for ``of_batch``.

        Raises:
            ConfigError: if the loss needs the weights.
        """
        if needs_weights(self):
            raise ConfigError(
                f"loss {self.name!r} needs the model's weights, so it cannot be applied to outputs "
                "alone, as this algorithm does; use another model.loss"
            )
        return self.mean(outputs, batch.targets, batch.sample_weights)

    def statistics(self, model: TorchModel, batch: Batch) -> Mapping[str, Tensor]:
        """Return what is added up over a client's training examples, once; by default nothing.

        Args:
            model: for the shape of its outputs; its weights are any.
            batch: some of the client's examples.
        """
        return {}

    @property
    def uses_broadcast(self) -> bool:
        """Whether ``of_batch`` needs the weights that the round has started from."""
        return False

    @property
    def mixes_weights(self) -> bool:
        """Whether an example's weight in a batch's mean depends on the other examples'."""
        return False

    @property
    def is_mean(self) -> bool:
        """Whether a step minimises a mean over its examples, weighted by ``example_weights``.

        Then its batch can be cut into micro-batches (``client.accumulate``).
        """
        return not needs_weights(self) and type(self).of_outputs is Loss.of_outputs

    @property
    def evaluated(self) -> Loss:
        """The loss that is evaluated: this one, unless it changes another one in training."""
        return self


def is_batch_loss(loss: Loss) -> bool:
    """Return whether a loss says that a step minimises more than the mean over the examples."""
    changes = needs_weights(loss) or type(loss).of_outputs is not Loss.of_outputs
    return changes or loss.mixes_weights


def needs_weights(loss: Loss) -> bool:
    """Return whether a step's loss needs more of the model than its outputs."""
    return type(loss).of_batch is not Loss.of_batch
