"""From rows of the data set to batches of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from simfl.data import Examples
from simfl.data.dataset import arrays_of, take_rows
from simfl.data.ragged import Ragged
from simfl.models import Batch
from simfl.models.model import map_inputs
from simfl.vector import tensors_of, to_device

Rows: TypeAlias = "np.ndarray[Any, Any]"

ReadBatch: TypeAlias = "Callable[[Rows], Batch]"
"""Makes a batch of the examples in these rows, which may have any axes: they come first in it."""


def reader_of(examples: Examples, *, device: str) -> ReadBatch:
    """Return what reads batches: on a GPU from examples that are moved there once and stay.

    Examples that the GPU's memory does not hold are moved batch by batch, and so are those that
    stay in files, and sequences of several lengths, which are small and are padded on the way.
    """
    values = (*arrays_of(examples.inputs), examples.targets)
    is_on_cpu = torch.device(device).type == "cpu"
    if is_on_cpu or examples.stays_in_files or any(isinstance(one, Ragged) for one in values):
        return moving_reader(examples, device=device)
    try:
        return resident_reader(examples, device=device)
    except torch.cuda.OutOfMemoryError:
        return moving_reader(examples, device=device)


def resident_reader(examples: Examples, *, device: str) -> ReadBatch:
    """Copy all examples to a device, and return what reads batches from there."""
    inputs = map_inputs(examples.inputs, lambda array: torch.tensor(array, device=device))
    targets = torch.tensor(examples.targets, device=device)
    scale = _scaler(examples, device=device)

    def read(rows: Rows) -> Batch:
        # Dense, as a stack's rows may not be: torch would copy them to memory that is not pinned.
        index = to_device(torch.from_numpy(np.ascontiguousarray(rows)), device)
        return Batch(map_inputs(inputs, lambda tensor: scale(tensor[index])), targets[index])

    return read


def moving_reader(examples: Examples, *, device: str) -> ReadBatch:
    """Return what reads batches from where the examples are, and copies them to a device."""
    scale = _scaler(examples, device=device)

    def read(rows: Rows) -> Batch:
        # The rows are taken by index, so these arrays are copies: no one else's memory is at risk.
        taken = take_rows(examples.inputs, rows)
        inputs = map_inputs(taken, lambda array: scale(_move(array, device)))
        choices = tuple(_move(choice[rows], device) for choice in examples.choices)
        return Batch(inputs, _move(examples.targets[rows], device), choices=choices)

    return read


def read_batch(examples: Examples, rows: Rows) -> Batch:
    """Copy the examples of these rows into tensors."""
    return moving_reader(examples, device="cpu")(rows)


def weigh_ragged(batch: Batch, sizes_A: np.ndarray[Any, Any]) -> Batch:
    """Give weight 0 to padding in short batches, and larger weights to their other examples.

    Args:
        batch: [A, B, ...], B the largest of the sizes.
        sizes_A: how many examples of each client are its own; they come first.
    """
    size = batch.targets.shape[1]
    if (sizes_A == size).all():
        return batch
    is_own = np.arange(size) < sizes_A[:, None]
    is_double = any(tensor.dtype is torch.float64 for tensor in tensors_of(batch.inputs))
    weights = is_own * (size / sizes_A[:, None])
    weights_AB = torch.from_numpy(weights if is_double else weights.astype(np.float32))
    return batch._replace(sample_weights=to_device(weights_AB, batch.targets.device))


def _scaler(examples: Examples, *, device: str) -> Callable[[Tensor], Tensor]:
    """Return what makes float32 of the examples' inputs, as scaled, from copies on a device."""
    scaling = examples.scaling
    if scaling is None:
        return lambda tensor: tensor
    axes = arrays_of(examples.inputs)[0].ndim - 1

    def by_channel(numbers: Sequence[float]) -> Tensor:
        # On the device: by a number of Python's, CUDA would multiply with its reciprocal, which
        # may differ in the last bit.
        moved = torch.tensor(numbers, dtype=torch.float32, device=device)
        return moved.view(-1, *[1] * (axes - 1))

    steps: list[tuple[Callable[[Tensor, Tensor], Tensor], Tensor]] = []
    if scaling.divide_by != 1:
        steps.append((Tensor.div_, by_channel([scaling.divide_by])))
    if scaling.mean:
        steps.append((Tensor.sub_, by_channel(scaling.mean)))
    if scaling.std:
        steps.append((Tensor.div_, by_channel(scaling.std)))

    def scale(tensor: Tensor) -> Tensor:
        scaled = tensor.float()
        for apply, numbers in steps:
            apply(scaled, numbers)
        return scaled

    return scale


def _move(array: np.ndarray[Any, Any], device: str) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor if device == "cpu" else to_device(tensor, device)
