"""Batches are the rows asked for, wherever the examples lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from simfl.client.batches import read_batch, reader_of, resident_reader
from simfl.data import Examples

INPUTS = {"a": np.arange(12, dtype=np.float32).reshape(6, 2), "b": np.arange(6)}
EXAMPLES = Examples(INPUTS, np.arange(6) * 10)


@pytest.mark.parametrize("rows", [np.array([4, 1]), np.array([[4, 1], [0, 0]])], ids=["B", "CB"])
def test_examples_that_stay_on_a_device_are_read_as_those_that_are_moved(rows: np.ndarray) -> None:
    for batch in (read_batch(EXAMPLES, rows), resident_reader(EXAMPLES, device="cpu")(rows)):
        assert batch.targets.tolist() == (rows * 10).tolist()
        assert batch.inputs["b"].tolist() == rows.tolist()
        assert batch.inputs["a"].tolist() == INPUTS["a"][rows].tolist()


def test_a_batch_shares_no_memory_with_the_examples() -> None:
    """They may lie in the object store, which torch would write through."""
    batch = reader_of(EXAMPLES, device="cpu")(np.array([0]))
    batch.inputs["a"].add_(1.0)
    assert INPUTS["a"][0].tolist() == [0.0, 1.0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_examples_stay_there() -> None:
    batch = reader_of(EXAMPLES, device="cuda")(np.array([2]))
    assert batch.targets.device.type == "cuda"
    assert batch.targets.tolist() == [20]
