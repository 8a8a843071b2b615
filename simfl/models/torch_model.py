"""TorchModel: any torch.nn.Module with a loss, as a Model."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from simfl.errors import ConfigError, DataError
from simfl.models.clipping import ExampleClipping, layers_with_norms
from simfl.models.dropout import dropout_layers, seed_dropout
from simfl.models.layers import mixes_examples
from simfl.models.losses import LossLike, as_loss, is_per_example
from simfl.models.metrics import MetricLike, as_metrics
from simfl.models.model import (
    Batch,
    Inputs,
    MetricSums,
    Model,
    Precision,
    call_in_precision,
    call_module,
    difference,
    take_examples,
)
from simfl.models.module_state import (
    HeldState,
    named_tensors,
    require_dense,
    require_dtypes,
    require_fit,
)
from simfl.models.per_example import sums_of_parts, weighted_mean, weighted_sums
from simfl.vector import Vector, widened

if TYPE_CHECKING:
    from typing import Self


class TorchModel(Model):
    """A ``torch.nn.Module`` and the loss it is trained on.

    The constructor records which parameters are trained (``requires_grad``), and which layers of
    a module in training mode are in evaluation mode and stay so. A tensor that the module holds
    under two names counts once, under the first. Non-persistent buffers and attributes that are
    plain data are recorded, too, and reset by ``set_weights``.

    Args:
        module: used without copying it.
        loss: a Loss, its name, a pair (name, {hyper-parameters}), a loss module of torch, or a
            function (outputs, targets) -> [B]; see ``as_loss``.
        metrics: what to evaluate besides the loss; by default the loss's ``default_metrics``.
        microbatch_size: how many examples' gradients are held at once when each is clipped; see
            ``ExampleClipping``.
        precision: the type that the module computes in during training; evaluation is in float32.

    Raises:
        ConfigError: if the module has no trained parameter, or a layer that cannot be trained.

    >>> model = TorchModel(nn.Linear(2, 1, bias=False), "mse")
    >>> model.set_weights(Vector({"weight": torch.tensor([[1.0, 2.0]])}))
    >>> batch = Batch(torch.tensor([[1.0, 1.0]]), torch.tensor([0.0]))
    >>> model.compute_batch_gradients(batch)  # 2 * (1 + 2 - 0) * (1, 1)
    Vector(weight=[[6.0, 6.0]])
    """

    def __init__(
        self,
        module: nn.Module,
        loss: LossLike = "cross-entropy",
        *,
        metrics: Iterable[MetricLike] | None = None,
        microbatch_size: int | None = None,
        precision: Precision = "float32",
    ) -> None:
        self.module = module
        self.precision: Precision = precision
        self.loss = as_loss(loss)
        self.metrics = as_metrics(self.loss.default_metrics if metrics is None else metrics)
        if microbatch_size is not None and microbatch_size < 1:
            raise ConfigError(f"microbatch_size is {microbatch_size}, but must be 1 or more")
        self.microbatch_size = microbatch_size
        require_dense(module)
        self._always_eval = _layers_in_eval(module)
        self._dropouts = list(dropout_layers(module).values())
        self._read_parameters()

    def _read_parameters(self) -> None:
        state = named_tensors(self.module)
        buffers = {
            name: value for name, value in state.items() if not isinstance(value, nn.Parameter)
        }
        self._trainable: dict[str, nn.Parameter] = {
            name: value
            for name, value in state.items()
            if isinstance(value, nn.Parameter) and value.requires_grad
        }
        if not self._trainable:
            raise ConfigError(
                f"{type(self.module).__name__} has no parameter to train; "
                "set requires_grad of one at least"
            )
        require_dtypes(state, self._trainable)
        self._parameters: list[Tensor] = list(self._trainable.values())
        averaged = [name for name, value in buffers.items() if not value.is_complex()]
        self._shared_names = (*self._trainable, *averaged)
        self._held = HeldState(self.module, state)
        self._fixed_state = None if buffers else state
        is_known = is_per_example(self.loss) and not self.is_half
        self._clipping = ExampleClipping(
            module=self.module,
            loss=self.loss,
            trainable=self._trainable,
            call=self.call,
            layers=layers_with_norms(self.module) if is_known else [],
            microbatch_size=self.microbatch_size,
        )

    def _state(self) -> dict[str, Tensor]:
        """Return parameters and persistent buffers; read anew, as modules may rebind buffers."""
        return named_tensors(self.module) if self._fixed_state is None else self._fixed_state

    # -- weights ---------------------------------------------------------------------------

    @property
    def shared_names(self) -> tuple[str, ...]:
        """The trainable parameters, then the persistent buffers that are averaged.

        Frozen parameters and complex buffers are excluded.
        """
        return self._shared_names

    @property
    def is_half(self) -> bool:
        """Whether any trained parameter is float16 or bfloat16."""
        return any(widened(parameter) is not parameter for parameter in self._parameters)

    @property
    def trainable(self) -> Mapping[str, nn.Parameter]:
        """The trained parameters by name, not copied."""
        return self._trainable

    def get_weights(self, trainable: bool = False) -> Vector:
        """Return a copy of parameters and persistent buffers, in the order of ``state_dict``.

        Args:
            trainable: only the trained parameters.
        """
        tensors = self._trainable if trainable else self._state()
        return Vector({name: tensor.detach().clone() for name, tensor in tensors.items()})

    def set_weights(self, weights: Vector, trainable: bool = False) -> None:
        """Copy the weights into the module's own memory.

        If all weights are given, the module's other state is reset, too.

        Raises:
            VectorError: unless names and shapes are those of ``get_weights(trainable)``; nothing
                is changed in this case.
        """
        tensors = self._trainable if trainable else self._state()
        require_fit("weights", weights, tensors)
        with torch.no_grad():
            values = [_rounded(weights[name], tensor) for name, tensor in tensors.items()]
            torch._foreach_copy_(list(tensors.values()), values)
        if not trainable:
            self._held.restore()

    @property
    def held(self) -> HeldState:
        """The module's state besides its weights, which is reset for each client."""
        return self._held

    def apply_updates(self, updates: Vector) -> None:
        """Add the updates to the trainable weights, in place.

        Raises:
            VectorError: unless names and shapes are those of the trainable weights.
        """
        self.apply_scaled_updates(updates, 1.0)

    def apply_scaled_updates(self, updates: Vector, scale: float) -> None:
        """Add scale times the updates to the trainable weights, in one pass with one rounding.

        Raises:
            VectorError: unless names and shapes are those of the trainable weights.
        """
        require_fit("updates", updates, self._trainable)
        values = [updates[name] for name in self._trainable]
        with torch.no_grad():
            torch._foreach_add_(self._parameters, values, alpha=scale)

    def compute_delta(self, start: Vector, *, into: Vector | None = None) -> Vector:
        """Return start minus the weights of ``shared_names``, in the type of ``difference``.

        Args:
            start: all weights before training.
            into: a previous delta whose memory is reused: fresh memory costs more than the numbers.
        """
        tensors = self._state()
        deltas = {}
        with torch.no_grad():
            for name in self._shared_names:
                if name in self._trainable:
                    reused = into[name] if into else None
                    a, b = widened(start[name]), widened(tensors[name])
                    deltas[name] = torch.sub(a, b, out=reused)
                else:
                    deltas[name] = difference(start[name], tensors[name])
        return Vector(deltas)

    @property
    def clips_by_norms(self) -> bool:
        """Whether the norm of each example's gradient can be found without the gradient."""
        return bool(self._clipping.layers)

    # -- training and evaluation -----------------------------------------------------------

    def compute_loss_and_gradients(
        self, batch: Batch, max_norm: float | None = None
    ) -> tuple[Tensor, Vector]:
        """Return the loss (0-d, detached) and the gradients of the trainable weights.

        The module is called in training mode. Parameters that the loss does not depend on have
        gradients of zeros.

        Raises:
            ConfigError: if the loss is not one number per example, ``max_norm`` is negative, or
                it is given and a layer mixes the examples of a batch.
            DataError: if the sample weights are not one number per example.
        """
        _require_weights(batch)
        self.enter_training()
        if max_norm:
            return self._clipped(batch, max_norm)
        outputs = self.call(batch.inputs)
        loss = self.loss.mean(outputs, batch.targets, batch.sample_weights)
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        owned = _with_own_memory(gradients, self._parameters)
        return loss.detach(), Vector(dict(zip(self._trainable, owned, strict=True)))

    def call(self, inputs: Inputs, instead: Mapping[str, Tensor] | None = None) -> Any:
        """Call the module as in training; ``instead`` replaces its own tensors by name."""
        return call_in_precision(self.precision, self.module, inputs, instead, device=self.device)

    def seed_step(self, keys: Tensor, step: int) -> None:
        """Set the keys of the module's ``Dropout`` layers."""
        seed_dropout(self._dropouts, keys, step)

    def _clipped(self, batch: Batch, max_norm: float) -> tuple[Tensor, Vector]:
        if max_norm < 0:
            raise ConfigError(f"sclip is {max_norm}, but a norm is positive; 0 or None is off")
        losses, gradients = self._clipping.gradients(batch, max_norm)
        loss = weighted_mean(losses, batch.sample_weights)
        return loss, Vector(dict(zip(self._trainable, gradients, strict=True)))

    def evaluate(self, batch: Batch) -> MetricSums:
        """Return the sums of "loss" and of the metrics, in evaluation mode."""
        with torch.no_grad():
            outputs = self._evaluation_outputs(batch)
            losses = self.loss(outputs, batch.targets)
            sums = {"loss": weighted_sums(losses, batch.sample_weights)}
            for metric in self.metrics:
                sums[metric.key] = metric.sums(outputs, batch.targets, batch.sample_weights)
        return sums

    def evaluate_parts(self, batch: Batch, sizes: Sequence[int]) -> list[MetricSums]:
        """Return the sums for each part of a batch.

        The module is called once for all parts, or once for each part if a layer mixes examples or
        a metric overrides ``sums``.

        Args:
            batch: B examples.
            sizes: the number of examples of each part, at least 1; their sum is B.
        """
        if not self._keeps_examples_apart():
            ends = itertools.accumulate(sizes)
            cuts = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
            return [self.evaluate(take_examples(batch, cut)) for cut in cuts]
        with torch.no_grad():
            outputs = self._evaluation_outputs(batch)
            values = {"loss": self.loss(outputs, batch.targets)}
            values |= {metric.key: metric(outputs, batch.targets) for metric in self.metrics}
        return sums_of_parts(values, batch.sample_weights, sizes)

    def _evaluation_outputs(self, batch: Batch) -> Any:
        _require_weights(batch)
        self._enter_evaluation()
        return call_module(self.module, batch.inputs)

    def _keeps_examples_apart(self) -> bool:
        """Return whether loss and metrics of an example do not depend on the rest of the batch."""
        self._enter_evaluation()
        mixes = any(map(mixes_examples, self.module.modules()))
        return not mixes and not any(metric.has_own_sums for metric in self.metrics)

    def _enter_evaluation(self) -> None:
        if self.module.training:
            self.module.eval()

    def enter_training(self) -> None:
        """Put the module into training mode, except layers that stay in evaluation mode."""
        if self.module.training:
            return
        self.module.train()
        for layer in self._always_eval:
            layer.training = False

    # -- device ----------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """The device of the weights; batches must be on it, too."""
        return self._parameters[0].device

    def to(self, device: torch.device | str) -> Self:
        """Move module and loss to a device, in place, and return self."""
        self.module.to(device)
        self.loss.to(device)
        self._read_parameters()
        return self


def _rounded(value: Tensor, like: Tensor) -> Tensor:
    # Averaged counts, such as num_batches_tracked, come back as floats a rounding error off.
    if value.is_floating_point() and not like.is_floating_point():
        return value.round()
    return value


def _with_own_memory(
    gradients: Iterable[Tensor | None], parameters: Iterable[Tensor]
) -> list[Tensor]:
    """Replace missing gradients with zeros; copy those that are expanded or share memory.

    Float16 and bfloat16 become float32.
    """
    seen: set[int] = set()
    owned = []
    for gradient, parameter in zip(gradients, parameters, strict=True):
        if gradient is None:
            owned.append(torch.zeros_like(widened(parameter)))
            continue
        gradient = widened(gradient)
        storage = gradient.untyped_storage()
        is_owned = storage.data_ptr() not in seen and storage.nbytes() >= gradient.nbytes
        seen.add(storage.data_ptr())
        owned.append(gradient if is_owned else gradient.clone())
    return owned


def _layers_in_eval(module: nn.Module) -> list[nn.Module]:
    if not module.training:
        return []
    return [layer for layer in module.modules() if not layer.training]


def _require_weights(batch: Batch) -> None:
    weights = batch.sample_weights
    if weights is not None and weights.shape != batch.targets.shape[:1]:
        raise DataError(
            f"sample weights have shape {list(weights.shape)}, but there are "
            f"{len(batch.targets)} examples; give one number each"
        )
