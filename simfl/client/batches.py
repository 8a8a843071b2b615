"""From rows of the data set to batches of tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from simfl.data import Examples
from simfl.data.dataset import ArrayTree, take_rows
from simfl.models import Batch
from simfl.models.model import Inputs

__all__ = ["read_batch"]


def read_batch(examples: Examples, rows_B: np.ndarray[Any, Any], *, device: str = "cpu") -> Batch:
    """Copy the examples of these rows into tensors on a device."""
    inputs = _to_tensors(take_rows(examples.inputs, rows_B), device)
    return Batch(inputs, torch.from_numpy(examples.targets[rows_B]).to(device))


def _to_tensors(tree: ArrayTree, device: str) -> Inputs:
    # The rows were taken by index, so these arrays are copies: no one else's memory is at risk.
    if isinstance(tree, dict):
        return {name: torch.from_numpy(array).to(device) for name, array in tree.items()}
    if isinstance(tree, tuple):
        return tuple(torch.from_numpy(array).to(device) for array in tree)
    return torch.from_numpy(tree).to(device)
