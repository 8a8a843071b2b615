"""Compare a stack of two clients with each of them alone, before the run.

Whether third-party code mixes the examples of a batch can only be found by running it. In a stack,
such a loss, module or optimizer plug-in would silently mix the examples of several clients.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from simfl.client.batches import Rows, read_batch, weigh_ragged
from simfl.client.recipe import ClientRecipe
from simfl.data import FederatedDataset
from simfl.models import Batch, Loss, StackedModel, TorchModel, is_batch_loss
from simfl.models.losses import is_per_example
from simfl.models.metric_sums import flat
from simfl.models.model import map_inputs
from simfl.optimizer import LocalOptimizer, Optimizer
from simfl.seeding import global_generators
from simfl.vector import Vector

_MAX_BATCH: Final = 256
"""Examples of a batch that is tried out. Code may treat large batches otherwise than small ones, so
that batches are as large as the run's, up to this."""
_WIDE: Final = 64
"""Examples for which the loss is tried out, at least."""
_NEAR: Final = {torch.bfloat16: 0.2, torch.float16: 0.02}
_NEAR_FLOAT: Final = 1e-4
"""The tolerance for gradients, as a share of their norm, by the dtype of the weights. Rounding
causes less than 1e-6 in float32; mixing clients' examples, several per cent."""
_NEAR_LOSS: Final = 1e-5
"""The tolerance for one example's loss for the same outputs, which is a short sum."""
_NEAR_WEIGHTS: Final = 1e-6
"""The tolerance for weights after steps that hardly change them."""
_CANCELLED: Final = 1e-6
"""The rounding error of gradients that cancel out, as a share of the loss."""
_AMPLITUDE: Final = 0.02
"""The distance of the two clients' weights from the model's."""


def find_stack_fault(
    recipe: ClientRecipe, model: TorchModel, dataset: FederatedDataset
) -> str | None:
    """Return why a stack of two clients gives other results than each alone; None if it doesn't.

    Batches are as large as the run's. The second client's batch is padded, unless batches have a
    single example. Each client starts from different weights near the model's: with weights of
    zero, differences would not show.

    Args:
        recipe: what clients do.
        model: has other weights afterwards.
        dataset: some of its examples are trained on.

    Raises:
        Exception: whatever third-party code raises for one client alone.
    """
    largest = max(int(dataset.num_train_examples().max(initial=1)), 1)
    size = min(recipe.work.batch_size or largest, largest, _MAX_BATCH)
    spread = _spread(dataset, size + max(size - 1, 1))
    if fault := _loss_fault(model, _wide_batch(dataset, size), size):
        return fault
    rows = (spread[:size], spread[size:])
    batches = [read_batch(dataset.train, own) for own in rows]
    batch = _ragged_batch(dataset, *rows)
    given = [model.loss_given(own) for own in batches]
    with _exact(model):
        starts = _starts(model)
        singles = _steps_of_each(recipe, model, batches, starts, given)
    try:
        stack, found = _step_in_stack(recipe, model, batch, starts, _of_both(given))
    except Exception as error:
        what = _differentiated(model) if is_batch_loss(model.loss) else "the model"
        return f"{what} fails in a stack: {_first_line(error)}"
    if not _are_near(model, singles, found) and not _agree_in_double(recipe, model, batches, batch):
        return f"{_differentiated(model)} gives a client other results in a stack than alone"
    return _optimizer_fault(recipe, model, stack, Vector.stack([own for _, own in singles]))


def _steps_of_each(
    recipe: ClientRecipe,
    model: TorchModel,
    batches: Sequence[Batch],
    starts: Sequence[Vector],
    given: Sequence[Mapping[str, Any]],
) -> list[tuple[float, Vector]]:
    """Return the loss and gradients of each client alone."""
    alone = zip(batches, starts, (0, 1), given, strict=True)
    return [_step_alone(recipe, model, *own) for own in alone]


def _are_near(
    model: TorchModel,
    singles: Sequence[tuple[float, Vector]],
    found: Sequence[tuple[float, Vector]],
) -> bool:
    near = _near(model.module.parameters())
    return all(_is_near(one, two, near) for one, two in zip(singles, found, strict=True))


def _agree_in_double(
    recipe: ClientRecipe, model: TorchModel, batches: Sequence[Batch], batch: Batch
) -> bool:
    """Return whether two clients have the same gradients in a stack and alone in float64.

    Deep networks may differ in float32 by more than mixing examples would tell: rounding turns on
    a unit of ReLU, and what flows back through it.
    """
    try:
        # A user's function may build from the same layers again, which are to stay in float32.
        model = copy.deepcopy(model)
        model.module.double()
        model.to("cpu").precision = "float32"
        doubled, starts = [_doubled(own) for own in batches], _starts(model)
        given = [model.loss_given(own) for own in doubled]
        singles = _steps_of_each(recipe, model, doubled, starts, given)
        found = _step_in_stack(recipe, model, _doubled(batch), starts, _of_both(given))[1]
    except Exception:
        return False
    return _are_near(model, singles, found)


def _doubled(batch: Batch) -> Batch:
    def double(value: Any) -> Any:
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    inputs, targets, weights, choices = batch
    return Batch(map_inputs(inputs, double), double(targets), double(weights), choices)


def _differentiated(model: TorchModel) -> str:
    """Return what to name if gradients differ."""
    if is_batch_loss(model.loss):
        return f"loss {model.loss.name!r}"
    return type(model.module).__name__


def _wide_batch(dataset: FederatedDataset, size: int) -> Batch:
    """Return about as many examples as a stack's loss is given at once.

    Losses may mix examples in large batches only, or those of the same class.
    """
    return read_batch(dataset.train, _spread(dataset, max(2 * size, _WIDE)))


def _ragged_batch(dataset: FederatedDataset, first: Rows, second: Rows) -> Batch:
    """Return a batch of two clients of which the second may have an example less."""
    padded = np.array([first, [*second, second[0]][: len(first)]])
    return weigh_ragged(read_batch(dataset.train, padded), np.array([len(first), len(second)]))


def _of_both(given: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a stack's loss is given, from what that of each client is."""
    first = given[0]
    stacked = {n: torch.stack([own[n] for own in given]) for n in first if n != "broadcast"}
    return {**first, **stacked}


def _step_in_stack(
    recipe: ClientRecipe,
    model: TorchModel,
    batch: Batch,
    starts: list[Vector],
    given: Mapping[str, Any],
) -> tuple[StackedModel, list[tuple[float, Vector]]]:
    """Return a stack with these weights, and its clients' losses and gradients."""
    stack = StackedModel(model, 2)
    stack.begin(model.get_weights(), 2)
    stack.apply_updates(Vector.stack([start - starts[-1] for start in starts]))
    if model.precision != "float32":
        _step_together(recipe, stack, batch, given)
    with _exact(model):
        return stack, _step_together(recipe, stack, batch, given)


def _spread(dataset: FederatedDataset, count: int) -> Rows:
    """Return rows spread over the training examples: neighbours often have the same class."""
    return np.linspace(0, len(dataset.train) - 1, count).astype(np.int64)


@contextmanager
def _exact(model: TorchModel) -> Iterator[None]:
    """Have a model compute in float32, since bfloat16's rounding would hide differences."""
    precision, model.precision = model.precision, "float32"
    try:
        yield
    finally:
        model.precision = precision


def can_evaluate_together(recipe: ClientRecipe, dataset: FederatedDataset) -> bool:
    """Return whether clients evaluated in one batch get the same results as one by one.

    Only third-party code is tested; its exceptions are left to the run.
    """
    parts = [recipe.spec, recipe.loss.evaluated, *recipe.build_metrics()]
    if all(type(part).__module__.startswith("simfl.") and not part.runs_code for part in parts):
        return True
    width = max(min(recipe.evaluation_batch_size, len(dataset.train), _MAX_BATCH), 5)
    spread = _spread(dataset, width)
    sizes = [width // 2 + 1, width - width // 2 - 1]
    try:
        with torch.random.fork_rng(devices=[]):
            model = recipe.build_model()
            model.set_weights(_starts(model)[1], trainable=True)
            batch = read_batch(dataset.train, spread)
            if _loss_fault(model, batch, sizes[0]):
                return False
            together = model.evaluate_parts(batch, sizes)
            rows = spread[: sizes[0]], spread[sizes[0] :]
            apart = [model.evaluate(read_batch(dataset.train, own)) for own in rows]
    except Exception:
        return True
    return all(
        np.allclose(
            flat(one[name]), flat(other[name]), rtol=_NEAR_FLOAT, atol=_NEAR_FLOAT, equal_nan=True
        )
        for one, other in zip(together, apart, strict=True)
        for name in other
    )


def find_loss_fault(recipe: ClientRecipe, dataset: FederatedDataset) -> str | None:
    """Return a message if the loss of an example depends on the other examples; else None.

    Only third-party code is tested; its exceptions are left to the run.
    """
    if is_per_example(recipe.loss):
        return None
    try:
        with global_generators():
            batch = read_batch(dataset.train, _spread(dataset, 5))
            return _loss_fault(recipe.build_model(), batch, 3)
    except Exception:
        return None


def _loss_fault(model: TorchModel, batch: Batch, size: int) -> str | None:
    """Return a message if the loss of an example depends on the other examples; else None.

    Args:
        model: its loss is tried out.
        batch: some examples.
        size: those of a part, which the whole batch is compared with.
    """
    if is_per_example(model.loss):
        return None
    model.enter_training()
    outputs = model.call(batch.inputs)
    if not isinstance(outputs, Tensor):
        return None  # the model as a whole is checked later
    mixes = _mixes_examples(model.loss, outputs.detach(), batch.targets, size)
    if not mixes:
        # An untrained model's outputs may be nearly equal, so vary them; some losses refuse that.
        with suppress(Exception):
            further = outputs.detach() + _waves(outputs, 0) * 2.0
            mixes = _mixes_examples(model.loss, further, batch.targets, size)
    loss = model.loss.evaluated
    name = getattr(loss, "path", None) or getattr(loss, "name", "of your function")
    fault = f"the per-example values of loss {name!r} depend on the other examples in the batch"
    if outputs.shape == (*batch.targets.shape, 1):
        fault += "; outputs are [B, 1] and targets [B]: squeeze(-1) the outputs"
    return fault if mixes else None


def _mixes_examples(loss: Loss, outputs: Tensor, targets: Tensor, size: int) -> bool:
    near = _NEAR.get(outputs.dtype, _NEAR_LOSS)
    leaf = outputs.requires_grad_()
    whole = loss(leaf, targets)
    cuts = [slice(start, start + size) for start in range(0, len(targets), size)]
    parts = torch.cat([loss(leaf[own], targets[own]) for own in cuts])
    one, other = (torch.autograd.grad(losses.sum(), leaf)[0] for losses in (whole, parts))
    return not (_is_close(whole, parts, near) and _is_close(one, other, near))


def _step_alone(
    recipe: ClientRecipe,
    model: TorchModel,
    batch: Batch,
    start: Vector,
    key: int,
    given: Mapping[str, Any],
) -> tuple[float, Vector]:
    """Return the loss and gradients of a stack's client alone."""
    model.set_weights(start, trainable=True)
    model.seed_step(torch.tensor(key), 0)
    loss, gradients = model.compute_loss_and_gradients(batch, recipe.work.sclip, given=given)
    return loss.item(), gradients


def _step_together(
    recipe: ClientRecipe, stack: StackedModel, batch: Batch, given: Mapping[str, Any]
) -> list[tuple[float, Vector]]:
    stack.seed_step(torch.tensor([0, 1]), 0)
    losses, gradients = stack.compute_loss_and_gradients(batch, recipe.work.sclip, given=given)
    return list(zip(losses.tolist(), gradients.unstack(), strict=True))


def _optimizer_fault(
    recipe: ClientRecipe, model: TorchModel, stack: StackedModel, gradients: Vector
) -> str | None:
    """Compare two steps with the same gradients, together and alone."""
    optimizer = copy.deepcopy(recipe.optimizer)
    optimizer.seed = recipe.seed
    starts, rows = stack.get_weights().unstack(), gradients.unstack()
    ends = [_steps_alone(optimizer, model, *own) for own in zip(starts, rows, (0, 1), strict=True)]
    stacked = LocalOptimizer(optimizer, stacked=True)
    try:
        stacked.begin((0, 1), round=1, kept=[None] * 2, aux={}, like=stack.like)
        for _ in range(2):
            stacked.apply_gradients(stack, gradients)
    except Exception as error:
        return f"the optimizer fails in a stack: {_first_line(error)}"
    plugins: list[Any] = [*optimizer.regularizers, *optimizer.modules]
    if not all(plugin.is_deterministic for plugin in plugins):
        return None
    for start, end, other in zip(starts, ends, stack.get_weights().unstack(), strict=True):
        rounding = _NEAR_WEIGHTS * float(start.norm())
        allowed = _near(model.trainable.values()) * float((end - start).norm()) + rounding
        if float((end - other).norm()) > allowed:
            return "the optimizer gives a client other weights in a stack than alone"
    return None


def _steps_alone(
    optimizer: Optimizer, model: TorchModel, start: Vector, gradients: Vector, client: int
) -> Vector:
    """Return the weights after two steps of one client."""
    model.set_weights(start, trainable=True)
    local = LocalOptimizer(optimizer, stacked=False)
    local.begin((client,), round=1, kept=[None], aux={})
    for _ in range(2):
        local.apply_gradients(model, gradients)
    return model.get_weights(trainable=True)


def _starts(model: TorchModel) -> list[Vector]:
    """Return weights near the model's for two clients."""
    weights = model.get_weights(trainable=True)
    noise = [weights.map(partial(_waves, begin=client)) * _AMPLITUDE for client in range(2)]
    return [weights + own for own in noise]


def _waves(like: Tensor, begin: int) -> Tensor:
    """Return distinct numbers from -1 to 1, without a generator."""
    numbers = torch.arange(begin, begin + like.numel(), device=like.device)
    return numbers.sin().reshape(like.shape).to(like.dtype)


def _is_near(one: tuple[float, Vector], other: tuple[float, Vector], near: float) -> bool:
    """Compare losses and gradients; values that are not finite are ignored."""
    (loss, gradients), (other_loss, others) = one, other
    if not (math.isfinite(loss) and bool(gradients.is_finite())):
        return True
    if not math.isclose(loss, other_loss, rel_tol=near, abs_tol=near):
        return False
    allowed = near * float(gradients.norm()) + _CANCELLED * (1.0 + abs(loss))
    return float((gradients - others).norm()) <= allowed


def _is_close(one: Tensor, other: Tensor, near: float) -> bool:
    """Compare tensors, with a tolerance relative to the largest number."""
    allowed = near * other.detach().nan_to_num(posinf=0.0, neginf=0.0).abs().max().item()
    return torch.allclose(one, other, rtol=0.0, atol=allowed, equal_nan=True)


def _near(weights: Iterable[Tensor]) -> float:
    return max(_NEAR.get(weight.dtype, _NEAR_FLOAT) for weight in weights)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]
