"""Model: the interface of a model to the optimizer and the round; batches; calls of modules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from simfl.vector import Vector, widened

Inputs: TypeAlias = "Tensor | tuple[Tensor, ...] | dict[str, Tensor]"
"""A model's inputs: one tensor, positional arguments, or keyword arguments."""

Precision: TypeAlias = Literal["float32", "bf16"]
"""The type that layers compute in: that of the weights, or bfloat16 where that is safe."""

Call: TypeAlias = Callable[..., Any]
"""(inputs, tensors by name that replace the module's own) -> outputs."""

MetricSums: TypeAlias = "dict[str, tuple[Any, ...]]"
"""Metric -> what adds up over batches, such as (sum, weight); ``Metric.finish`` takes the totals.
Empty: nothing was measured."""


class Batch(NamedTuple):
    """Examples to train on or to evaluate; the first axis of each tensor is the example."""

    inputs: Inputs
    targets: Tensor
    sample_weights: Tensor | None = None
    """[B] factors of the examples' losses; None is 1 for all."""
    choices: tuple[Tensor, ...] = ()
    """For evaluation, the tokens of each choice that an example has: [B, M], padded with -100."""


def map_inputs(inputs: Any, function: Callable[[Any], Tensor]) -> Inputs:
    """Apply a function to each tensor or array of the inputs."""
    if isinstance(inputs, dict):
        return {name: function(tensor) for name, tensor in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(function(tensor) for tensor in inputs)
    return function(inputs)


def take_examples(batch: Batch, which: slice | tuple[slice, ...]) -> Batch:
    """Return some of a batch's examples, without copies; for axes before them, slices of all."""
    inputs, targets, weights, choices = batch
    return Batch(
        map_inputs(inputs, lambda tensor: tensor[which]),
        targets[which],
        None if weights is None else weights[which],
        tuple(choice[which] for choice in choices),
    )


class Model(ABC):
    """Weights, and the gradients of a loss with respect to them."""

    @abstractmethod
    def get_weights(self, trainable: bool = False) -> Vector:
        """Return a copy of the weights.

        Args:
            trainable: only the trained ones; otherwise frozen ones and buffers, too.
        """

    @abstractmethod
    def set_weights(self, weights: Vector, trainable: bool = False) -> None:
        """Copy the weights in.

        Raises:
            VectorError: unless names and shapes are those of ``get_weights(trainable)``.
        """

    @property
    @abstractmethod
    def shared_names(self) -> tuple[str, ...]:
        """The names of what training changes: trainable weights, then averaged buffers."""

    @abstractmethod
    def compute_loss_and_gradients(
        self,
        batch: Batch,
        max_norm: float | None = None,
        *,
        given: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, Vector]:
        """Return the batch's loss (0-d, detached) and the gradients of the trainable weights.

        Both are the mean over the batch of weight_i times the example's own. Gradients of float16
        and bfloat16 weights are float32.

        Args:
            batch: B examples.
            max_norm: scale each example's gradient, over all trainable tensors together, to
                this L2 norm at most, before its weight is applied (DP-SGD: Abadi et al., 2016,
                Algorithm 1, https://arxiv.org/abs/1607.00133). None or 0: off. One example changes
                the mean by at most weight_i * max_norm / B.
            given: what a loss of a whole batch needs of the client (``Loss.of_batch``).
        """

    def compute_batch_gradients(self, batch: Batch, max_norm: float | None = None) -> Vector:
        """Return only the gradients; see ``compute_loss_and_gradients``."""
        return self.compute_loss_and_gradients(batch, max_norm)[1]

    def seed_step(self, keys: Tensor, step: int) -> None:
        """Set the keys of the next step's random numbers; models without any ignore them.

        Args:
            keys: 0-d int64, the client's seed of the round; [C] for a stack.
            step: which step of the round, from 0.
        """
        return

    @abstractmethod
    def apply_updates(self, updates: Vector) -> None:
        """Add the updates to the trainable weights, in place."""

    def apply_scaled_updates(self, updates: Vector, scale: float) -> None:
        """Add scale times the updates to the trainable weights, in place."""
        self.apply_updates(updates * scale)

    def compute_delta(self, start: Vector, *, into: Vector | None = None) -> Vector:
        """Return start minus the weights of ``shared_names``, in the type of ``difference``.

        Args:
            start: all weights before training.
            into: a previous delta whose memory may be reused.
        """
        end = self.get_weights()
        return Vector({name: difference(start[name], end[name]) for name in self.shared_names})

    @abstractmethod
    def evaluate(self, batch: Batch) -> MetricSums:
        """Return loss and metrics over the batch, in evaluation mode, as sums."""


def difference(start: Tensor, end: Tensor) -> Tensor:
    """Return start - end; 0 where both are the same infinity.

    Float16 and bfloat16 become float32, since sums of many would overflow; integers and booleans
    become float64, exact up to 2^53.
    """
    if not start.is_floating_point():
        return (start.long() - end.long()).double()
    return torch.where(start == end, 0.0, widened(start) - widened(end))


def call_module(
    module: nn.Module | Callable[..., Any],
    inputs: Inputs,
    instead: Mapping[str, Tensor] | None = None,
) -> Any:
    """Call with one tensor, with positional arguments, or with keyword arguments.

    Args:
        module: the module to call, or what computes the same.
        inputs: its inputs.
        instead: tensors by name that replace a module's parameters and buffers.
    """
    keywords = inputs if isinstance(inputs, dict) else {}
    arguments = inputs if isinstance(inputs, tuple) else () if keywords else (inputs,)
    if not instead:
        return module(*arguments, **keywords)
    from torch.func import functional_call

    assert isinstance(module, nn.Module), "what is replaced is the tensors of a module"
    return functional_call(module, dict(instead), arguments, keywords)


def call_in_precision(
    precision: Precision,
    module: nn.Module | Callable[..., Any],
    inputs: Inputs,
    instead: Mapping[str, Tensor] | None = None,
    *,
    device: torch.device,
) -> Any:
    """Call a module as ``call_module`` does; the outputs have the precision of its weights.

    With ``bf16``, matrix products and convolutions use bfloat16, and operations that need more,
    such as norms, float32 (https://docs.pytorch.org/docs/stable/amp.html). Weights, gradients and
    outputs stay float32.
    """
    if precision == "float32":
        return call_module(module, inputs, instead)
    with torch.autocast(device.type, torch.bfloat16):
        outputs = call_module(module, inputs, instead)
    return _as_float32(outputs)


def _as_float32(outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        return outputs.float() if outputs.dtype is torch.bfloat16 else outputs
    if type(outputs) in (tuple, list):
        return type(outputs)(_as_float32(value) for value in outputs)
    if type(outputs) is dict:
        return {name: _as_float32(value) for name, value in outputs.items()}
    return outputs
