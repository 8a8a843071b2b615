"""From rows of the data set to batches of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from simfl.data import Examples
from simfl.data.dataset import ArrayTree, take_rows
from simfl.models import Batch
from simfl.models.model import Inputs

__all__ = ["ReadBatch", "read_batch", "reader_of"]

Rows: TypeAlias = "np.ndarray[Any, Any]"

ReadBatch: TypeAlias = "Callable[[Rows], Batch]"
"""Makes a batch of the examples in these rows, which may have any axes: they come first in it."""


def reader_of(examples: Examples, *, device: str) -> ReadBatch:
    """Return what reads batches: on a GPU from examples that are moved there once and stay.

    Examples that the GPU's memory does not hold are moved batch by batch.
    """
    if torch.device(device).type == "cpu":
        return lambda rows: read_batch(examples, rows)
    try:
        return resident_reader(examples, device=device)
    except torch.cuda.OutOfMemoryError:
        return lambda rows: read_batch(examples, rows, device=device)


def resident_reader(examples: Examples, *, device: str) -> ReadBatch:
    """Copy all examples to a device, and return what reads batches from there."""
    inputs = _map(examples.inputs, lambda array: torch.tensor(array, device=device))
    targets = torch.tensor(examples.targets, device=device)

    def read(rows: Rows) -> Batch:
        index = torch.from_numpy(rows).to(device)
        return Batch(_map(inputs, lambda tensor: tensor[index]), targets[index])

    return read


def read_batch(examples: Examples, rows: Rows, *, device: str = "cpu") -> Batch:
    """Copy the examples of these rows into tensors on a device."""
    # The rows were taken by index, so these arrays are copies: no one else's memory is at risk.
    inputs = _map(take_rows(examples.inputs, rows), lambda array: _move(array, device))
    return Batch(inputs, _move(examples.targets[rows], device))


def _move(array: np.ndarray[Any, Any], device: str) -> Tensor:
    return torch.from_numpy(array).to(device)


def _map(tree: ArrayTree | Inputs, function: Callable[[Any], Tensor]) -> Inputs:
    if isinstance(tree, dict):
        return {name: function(item) for name, item in tree.items()}
    if isinstance(tree, tuple):
        return tuple(function(item) for item in tree)
    return function(tree)
