"""How many clients are trained in one computation, decided before the run and never by timing.

The choice follows from the scenario, its model and the kind of device alone, since numbers depend
on it, in their last bits. ``docs/performance.md`` has what the rule's figures rest on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from torch import nn

from simfl.aggregation.trial import lift_stack_fault
from simfl.client.algorithm_trial import find_algorithm_fault
from simfl.client.batches import read_batch
from simfl.client.recipe import ClientRecipe
from simfl.client.stack_trial import find_stack_fault
from simfl.data import FederatedDataset
from simfl.models import TorchModel
from simfl.models.layers import alteration, gradient_hook, mixes_examples, needs_loop
from simfl.models.stacked_layers import is_dense_chain
from simfl.models.stacked_model import chain_of
from simfl.optimizer.trial import stack_fault
from simfl.seeding import global_generators
from simfl.transforms import trial as transforms_trial

CPU_NUMBERS: Final = 1 << 21
"""The weights of all clients of a stack that fit a CPU's caches together with activations."""
GPU_NUMBERS: Final = 1 << 28
"""Weights of a stack on a GPU: 1 GiB of float32, and about three times that in all."""
MAX_CPU_CLIENTS: Final = 128
MAX_GPU_CLIENTS: Final = 256
STACKS_A_COHORT: Final = 6
"""Into how many stacks a cohort is cut at least, so that there is work for several actors."""
LIGHT_STACKS_A_COHORT: Final = 3
"""The same for light stacks: two halves of one take almost as long as the whole, each."""
LIGHT_NUMBERS: Final = 1 << 20
"""Weights of a stack on a CPU below which a step is mostly bookkeeping, whatever its size."""
LIGHT_FILLER: Final = 1 << 19
"""Padding examples per client times weights, below which they cost less than a step."""

_DRAWING: Final = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    nn.RReLU,
)


@dataclass(frozen=True)
class StackChoice:
    """How clients are stacked."""

    size: int
    """A power of two; 1: one client at a time."""
    note: str | None = None
    """Why clients are not stacked although they were to be; one line."""


def choose_stack(
    asked: int | Literal["auto"],
    recipe: ClientRecipe,
    dataset: FederatedDataset,
    *,
    cohort_size: int,
    uses_gpu: bool,
) -> StackChoice:
    """Decide on the size of stacks.

    Args:
        asked: ``client.stack``; ``auto`` depends on the model's layers and size, the cohort and the
            kind of device.
        recipe: what clients do.
        dataset: a few of its examples are tried out in a stack.
        cohort_size: clients a round.
        uses_gpu: whether clients train on GPUs.
    """
    if asked == 1:
        return StackChoice(1)
    with global_generators():
        model = recipe.build_model()
        size = _rule(model, cohort_size, uses_gpu=uses_gpu) if asked == "auto" else asked
        while asked == "auto" and size > 1 and _is_mostly_filler(size, recipe, model, dataset):
            size //= 2
        if size == 1:
            return StackChoice(1)
        by_hand = asked == "auto" and not uses_gpu
        try:
            reason = next(_reasons(recipe, model, dataset, by_hand=by_hand), None)
        except Exception:
            # What fails for one client alone will fail in the run, with that client's traceback.
            return StackChoice(1)
    if reason is None:
        return StackChoice(size)
    return StackChoice(1, f"clients are trained one at a time, not in stacks: {reason}")


def _rule(model: TorchModel, cohort_size: int, *, uses_gpu: bool) -> int:
    """Return the size that ``auto`` stands for.

    On a CPU stacks pay for chains of dense layers while all their weights stay in its caches; of
    anything larger, and of convolutions, one client after another is as fast or faster.
    """
    if not uses_gpu and not (model.precision == "float32" and is_dense_chain(model.module)):
        return 1
    num_weights = sum(parameter.numel() for parameter in model.trainable.values())
    share = cohort_size // STACKS_A_COHORT
    if not uses_gpu:
        share = max(share, min(LIGHT_NUMBERS // num_weights, cohort_size // LIGHT_STACKS_A_COHORT))
    room = (GPU_NUMBERS if uses_gpu else CPU_NUMBERS) // num_weights
    size = min(room, MAX_GPU_CLIENTS if uses_gpu else MAX_CPU_CLIENTS, share)
    return 1 << (max(size, 1).bit_length() - 1)


def _is_mostly_filler(
    size: int, recipe: ClientRecipe, model: TorchModel, dataset: FederatedDataset
) -> bool:
    """Return whether stacks of clients in their order would have more padding than examples.

    With a small model, any amount of padding costs less than a step's overhead.
    """
    rows_C = dataset.num_train_examples()
    batch_C = np.minimum(rows_C, recipe.work.batch_size or rows_C)
    begins = np.arange(0, len(batch_C), size)
    widths = np.repeat(np.maximum.reduceat(batch_C, begins), size)[: len(batch_C)]
    filler = float((widths - batch_C).sum())
    num_weights = sum(parameter.numel() for parameter in model.trainable.values())
    return filler > batch_C.sum() and filler / len(batch_C) * num_weights > LIGHT_FILLER


def _reasons(
    recipe: ClientRecipe, model: TorchModel, dataset: FederatedDataset, *, by_hand: bool
) -> Iterator[str]:
    """Iterate over the reasons why clients cannot be stacked.

    Args:
        recipe: what clients do.
        model: the clients' model.
        dataset: the test steps use some of its examples.
        by_hand: whether stacks only pay if they are batched by hand.

    Raises:
        Exception: whatever third-party code raises for one client alone.
    """
    yield from _layer_reasons(model, by_hand=by_hand)
    if recipe.work.sclip and not (chain_of(model) and model.clips_by_norms):
        yield (
            "client.sclip clips each example's gradient, which stacks do for dense layers in "
            "float32 alone"
        )
    shapes = {name: tuple(weight.shape) for name, weight in model.trainable.items()}
    plugins: list[Any] = [*recipe.optimizer.regularizers, *recipe.optimizer.modules]
    for plugin in plugins:
        is_foreign = not type(plugin).__module__.startswith("simfl.")
        if is_foreign and (fault := stack_fault(plugin, shapes)) is not None:
            yield f"{plugin.name!r} fails the contract of plug-ins: {fault}"
    for transform in recipe.work.transforms:
        is_foreign = not type(transform).__module__.startswith("simfl.")
        if is_foreign and (fault := transforms_trial.stack_fault(transform, shapes)) is not None:
            yield f"{transform.name!r} fails the contract of transforms: {fault}"
    rule = recipe.aggregator
    is_foreign = not type(rule).lift_stack.__module__.startswith("simfl.")
    if is_foreign and (fault := lift_stack_fault(rule)) is not None:
        yield f"lift_stack() of {rule.name!r} differs from its lift() and merge(): {fault}"
    if changed := _changed_by_a_step(model, dataset):
        yield f"training changes {changed[0]!r}, which all clients of a stack would share"
    if fault := find_stack_fault(recipe, model, dataset):
        yield fault
    if fault := find_algorithm_fault(recipe, dataset):
        yield fault


def _layer_reasons(model: TorchModel, *, by_hand: bool) -> Iterator[str]:
    if model.is_half:
        yield "the module has weights of float16 or bfloat16; see client.precision"
    for name, layer in model.module.named_modules():
        what = f"layer {name!r} ({type(layer).__name__})"
        if mixes_examples(layer):
            yield f"{what} works with statistics of the batch"
        elif needs_loop(layer):
            yield f"{what} has no batched form"
        elif isinstance(layer, _DRAWING) and getattr(layer, "p", None) != 0:
            yield f"{what} draws from torch's generator; simfl.models.Dropout does not"
        elif hook := gradient_hook(layer):
            yield f"{what} {hook}, which stacks would ignore"
        elif by_hand and (change := alteration(layer)):
            yield f"{what} {change}"
    for name in model.shared_names:
        if name not in model.trainable:
            yield f"the module has a buffer, {name!r}, that training may change"


def _changed_by_a_step(model: TorchModel, dataset: FederatedDataset) -> list[str]:
    """Return the names of the state besides its weights that a training step changes."""
    model.compute_loss_and_gradients(read_batch(dataset.train, np.zeros(2, dtype=np.int64)))
    changed = model.held.changed()
    model.set_weights(model.get_weights())
    return changed
