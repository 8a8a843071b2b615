"""TorchModel: any torch.nn.Module with a loss, as a Model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from simfl.errors import ConfigError, DataError
from simfl.models.clipping import ExampleClipping, layers_with_norms
from simfl.models.dropout import dropout_layers, in_micro_batch, seed_dropout
from simfl.models.layers import mixes_examples
from simfl.models.loss import is_batch_loss
from simfl.models.losses import LossLike, as_loss, is_per_example
from simfl.models.metrics import Metric, MetricLike, as_metrics
from simfl.models.model import (
    Batch,
    Inputs,
    MetricSums,
    Precision,
    call_in_precision,
    call_module,
    take_examples,
)
from simfl.models.model_function import (
    ModelFunction,
    Objective,
    as_mappings,
    batch_loss,
    refuse_clipping,
    require_scalar,
)
from simfl.models.module_weights import ModuleWeights
from simfl.models.names import fix
from simfl.models.parameter_memory import with_own_memory
from simfl.models.per_example import (
    join_weights,
    require_tensor,
    sums_of_parts,
    weighted_mean,
    weighted_sums,
)
from simfl.models.recorded import Form
from simfl.models.rewriting import Forms
from simfl.vector import Vector

if TYPE_CHECKING:
    from typing import Self


class TorchModel(ModuleWeights):
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
        fixed: the names of weights and persistent buffers that never change. They are frozen, and
            layers with such buffers are in evaluation mode. They are not among ``get_weights``.

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
        fixed: Collection[str] = (),
    ) -> None:
        self.precision: Precision = precision
        self._predict: Callable[[Inputs], Any] | None = None
        self.loss = as_loss(loss)
        self._is_batch_loss = is_batch_loss(self.loss)
        self.metrics = as_metrics(self.loss.default_metrics if metrics is None else metrics)
        if microbatch_size is not None and microbatch_size < 1:
            raise ConfigError(f"microbatch_size is {microbatch_size}, but must be 1 or more")
        self.microbatch_size = microbatch_size
        self._always_eval = [*_layers_in_eval(module), *fix(module, fixed)]
        for layer in self._always_eval:
            layer.training = False
        ids = {id(layer) for layer in self._always_eval}
        self._changing = next((one for one in module.modules() if id(one) not in ids), None)
        self._dropouts = list(dropout_layers(module).values())
        super().__init__(module, fixed=fixed)

    def _read_parameters(self) -> None:
        super()._read_parameters()
        self._forms = Forms(self.module)
        is_known = is_per_example(self.loss) and not self.is_half
        self._clipping = ExampleClipping(
            module=self.module,
            loss=self.loss,
            trainable=self._trainable,
            call=self.call,
            layers=layers_with_norms(self.module) if is_known else [],
            microbatch_size=self.microbatch_size,
        )

    @property
    def clips_by_norms(self) -> bool:
        """Whether the norm of each example's gradient can be found without the gradient."""
        return bool(self._clipping.layers)

    def compute_loss_and_gradients(
        self,
        batch: Batch,
        max_norm: float | None = None,
        *,
        given: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, Vector]:
        """Return the loss (0-d, detached) and the gradients of the trainable weights.

        The module is called in training mode. Parameters that the loss does not depend on have
        gradients of zeros.

        Args:
            batch: B examples.
            max_norm: see ``Model``.
            given: what a loss of a batch needs of the client (``Loss.of_batch``). None: of this
                batch, and the module's weights as the round's first ones.

        Raises:
            ConfigError: if the loss is not one number per example, ``max_norm`` is negative, or
                it is given and a layer mixes the examples of a batch, or the loss does.
            DataError: if the sample weights are not one number per example.
        """
        if self._is_batch_loss:
            given = self.loss_given(batch) if given is None else given
            return self.compute_objective(batch_loss, batch, loss_given=given, max_norm=max_norm)
        _require_weights(batch)
        self.enter_training()
        if max_norm:
            return self._clipped(batch, max_norm)
        outputs = self.call(batch.inputs)
        loss = self.loss.mean(outputs, batch.targets, batch.sample_weights)
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        owned = with_own_memory(gradients, self._parameters)
        return loss.detach(), Vector(dict(zip(self._trainable, owned, strict=True)))

    def compute_objective(
        self,
        objective: Objective,
        batch: Batch,
        given: Sequence[Any] = (),
        *,
        loss_given: Mapping[str, Any] | None = None,
        max_norm: float | None = None,
    ) -> tuple[Tensor, Vector]:
        """Return an objective (0-d, detached) and its gradients by the trainable weights.

        As ``compute_loss_and_gradients``, for any function of the weights.

        Args:
            objective: ``(ModelFunction, trainable weights by name, batch, *given)`` -> 0-d.
            batch: B examples.
            given: further arguments of the objective; it gets Vectors as dicts of tensors.
            loss_given: what the model's own loss is given: see ``Loss.of_batch``.
            max_norm: as there, and refused.

        Raises:
            ConfigError: if the objective is not one number or does not depend on the weights, or
                ``max_norm`` is given.
            DataError: if the sample weights are not one number per example.
        """
        refuse_clipping(max_norm)
        _require_weights(batch)
        self.enter_training()
        function = ModelFunction(self, given=as_mappings(loss_given or {}))
        loss = require_scalar(
            objective(function, dict(self._trainable), batch, *map(as_mappings, given))
        )
        if not loss.requires_grad:
            raise ConfigError("the objective does not depend on the trained weights")
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        owned = with_own_memory(gradients, self._parameters)
        return loss.detach(), Vector(dict(zip(self._trainable, owned, strict=True)))

    def loss_given(self, batch: Batch) -> dict[str, Any]:
        """Return what ``Loss.of_batch`` is given of a client that has one batch of examples."""
        given: dict[str, Any] = dict(self.loss.statistics(self, batch))
        return given | {"broadcast": self.get_weights()} if self.loss.uses_broadcast else given

    def call(self, inputs: Inputs, instead: Mapping[str, Tensor] | None = None) -> Any:
        """Call the module as in training; ``instead`` replaces its own tensors by name."""
        form = self.module if instead else self._form(inputs)
        return call_in_precision(self.precision, form, inputs, instead, device=self.device)

    def _form(self, inputs: Inputs) -> Form:
        """Return the module, or what computes the same in less time; see ``faster_form``."""
        mode = self._changing is not None and self._changing.training
        return self._forms.find(inputs, mode=mode)

    def take_forms(self, other: TorchModel) -> None:
        """Take over what ``faster_form`` has found for a model that was built in the same way."""
        self._forms.take(other._forms)

    def seed_step(self, keys: Tensor, step: int) -> None:
        """Set the keys of the module's ``Dropout`` layers."""
        seed_dropout(self._dropouts, keys, step)

    def in_micro_batch(
        self, before: int, size: int, *, by_example: bool
    ) -> AbstractContextManager[None]:
        """Return the context for some of a step's examples; see ``dropout.in_micro_batch``."""
        return in_micro_batch(self._dropouts, before, size, by_example=by_example)

    def _clipped(self, batch: Batch, max_norm: float) -> tuple[Tensor, Vector]:
        if max_norm < 0:
            raise ConfigError(f"sclip is {max_norm}, but a norm is positive; 0 or None is off")
        losses, gradients = self._clipping.gradients(batch, max_norm)
        loss = weighted_mean(losses, batch.sample_weights)
        return loss, Vector(dict(zip(self._trainable, gradients, strict=True)))

    def evaluate(self, batch: Batch) -> MetricSums:
        """Return the sums of "loss" and of the metrics, in evaluation mode."""
        with torch.no_grad():
            outputs = self.evaluation_outputs(batch)
            losses = self.loss(outputs, batch.targets)
            weights, own = batch.sample_weights, self.loss.example_weights(batch.targets)
            sums = {
                "loss": weighted_sums(
                    losses, weights if own is None else join_weights(weights, own)
                )
            }
            for metric in self.metrics:
                if metric.calls_model:
                    sums[metric.key] = weighted_sums(self.call_metric(metric, batch), weights)
                    continue
                sums[metric.key] = metric.sums(outputs, batch.targets, weights)
        return sums

    def evaluate_parts(self, batch: Batch, sizes: Sequence[int]) -> list[MetricSums]:
        """Return the sums for each part of a batch.

        The module is called once for all parts, or once for each part if a layer mixes examples or
        a metric overrides ``sums`` and does not say that it takes slices.

        Args:
            batch: B examples.
            sizes: the number of examples of each part, at least 1; their sum is B.
        """
        if not self._keeps_examples_apart():
            ends = itertools.accumulate(sizes)
            cuts = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
            return [self.evaluate(take_examples(batch, cut)) for cut in cuts]
        with torch.no_grad():
            outputs = self.evaluation_outputs(batch)
            values = {"loss": self.loss(outputs, batch.targets)}
            means = [one for one in self.metrics if not one.has_own_sums]
            values |= {
                one.key: self.call_metric(one, batch)
                if one.calls_model
                else one(outputs, batch.targets)
                for one in means
            }
        weights = {one.key: one.example_weights(batch.targets) for one in means}
        weights["loss"] = self.loss.example_weights(batch.targets)
        own = {name: value for name, value in weights.items() if value is not None}
        parts = sums_of_parts(values, batch.sample_weights, sizes, own)
        if len(means) == len(self.metrics):
            return parts
        return [
            {"loss": part["loss"], **{one.key: {**part, **other}[one.key] for one in self.metrics}}
            for part, other in zip(parts, self._other_sums(outputs, batch, sizes), strict=True)
        ]

    def _other_sums(self, outputs: Any, batch: Batch, sizes: Sequence[int]) -> list[MetricSums]:
        """Return what metrics with sums of their own make of each part of a batch."""
        others = [one for one in self.metrics if one.has_own_sums]
        outputs = require_tensor(others[0].key, outputs)
        ends = itertools.accumulate(sizes)
        found = []
        for end, size in zip(ends, sizes, strict=True):
            rows = slice(end - size, end)
            weights = None if batch.sample_weights is None else batch.sample_weights[rows]
            found.append(
                {one.key: one.sums(outputs[rows], batch.targets[rows], weights) for one in others}
            )
        return found

    def call_metric(self, metric: Metric, batch: Batch) -> Tensor:
        """Return the values of a metric that calls the model: [B]."""

        def predict(inputs: Inputs) -> Any:
            return self.evaluation_outputs(Batch(inputs, batch.targets))

        return metric.of_model(predict, batch)

    def evaluation_outputs(self, batch: Batch) -> Any:
        """Return the module's outputs for B examples, in evaluation mode."""
        _require_weights(batch)
        self.enter_evaluation()
        if self._predict is not None:
            return self._predict(batch.inputs)
        return call_module(self._form(batch.inputs), batch.inputs)

    @contextmanager
    def predicting(self, predict: Callable[[Inputs], Any]) -> Iterator[None]:
        """Evaluate the outputs of a function of the inputs for a while, instead of the module's."""
        precision, self.precision, self._predict = self.precision, "float32", predict
        try:
            yield
        finally:
            self.precision, self._predict = precision, None

    def _keeps_examples_apart(self) -> bool:
        """Return whether loss and metrics of an example do not depend on the rest of the batch."""
        self.enter_evaluation()
        mixes = any(map(mixes_examples, self.module.modules()))
        return not mixes and all(m.takes_slices or not m.has_own_sums for m in self.metrics)

    def enter_evaluation(self) -> None:
        """Put the module into evaluation mode."""
        if self._changing is not None and self._changing.training:
            self.module.eval()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Have the module in evaluation mode, then in training mode again."""
        self.enter_evaluation()
        try:
            yield
        finally:
            self.enter_training()

    def enter_training(self) -> None:
        """Put the module into training mode, except layers that stay in evaluation mode."""
        if self._changing is None or self._changing.training:
            return
        self.module.train()
        for layer in self._always_eval:
            layer.training = False

    def to(self, device: torch.device | str) -> Self:
        """Move module and loss to a device, in place, and return self."""
        self.module.to(device)
        self.loss.to(device)
        self._read_parameters()
        return self


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
