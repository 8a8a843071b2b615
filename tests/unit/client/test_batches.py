"""Batches are the requested rows, wherever the examples are stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from simfl.client.batches import read_batch, reader_of, resident_reader
from simfl.data import Examples, Scaling

INPUTS = {"a": np.arange(12, dtype=np.float32).reshape(6, 2), "b": np.arange(6)}
EXAMPLES = Examples(INPUTS, np.arange(6) * 10)


@pytest.mark.parametrize("rows", [np.array([4, 1]), np.array([[4, 1], [0, 0]])], ids=["B", "CB"])
def test_examples_that_stay_on_a_device_are_read_as_those_that_are_moved(rows: np.ndarray) -> None:
    for batch in (read_batch(EXAMPLES, rows), resident_reader(EXAMPLES, device="cpu")(rows)):
        assert batch.targets.tolist() == (rows * 10).tolist()
        assert batch.inputs["b"].tolist() == rows.tolist()
        assert batch.inputs["a"].tolist() == INPUTS["a"][rows].tolist()


@pytest.mark.parametrize("rows", [np.array([4, 1]), np.array([[4, 1], [0, 0]])], ids=["B", "CB"])
def test_images_with_channels_last_are_read_in_the_order_of_their_axes(rows: np.ndarray) -> None:
    images = np.arange(6 * 4, dtype=np.float32).reshape(6, 2, 1, 2).transpose(0, 3, 1, 2)
    batch = read_batch(Examples((images, INPUTS["b"]), np.arange(6)), rows)
    assert batch.inputs[0].is_contiguous()
    assert batch.inputs[0].tolist() == images[rows].tolist()
    assert batch.inputs[1].tolist() == rows.tolist()


BYTES = np.arange(6 * 2 * 3, dtype=np.uint8).reshape(6, 2, 3)
"""Examples of two channels with three numbers each."""


@pytest.mark.parametrize("rows", [np.array([4, 1]), np.array([[4, 1], [0, 0]])], ids=["B", "CB"])
def test_inputs_are_scaled_to_the_bits_of_numpy_whatever_axes_the_rows_have(
    rows: np.ndarray,
) -> None:
    scaling = Scaling(divide_by=255, mean=(0.1, 0.2), std=(0.3, 0.7))
    examples = Examples(BYTES, np.arange(6), scaling)
    unit = BYTES[rows].astype(np.float32) / np.float32(255)
    mean = np.array([[0.1], [0.2]], np.float32)
    wanted = (unit - mean) / np.array([[0.3], [0.7]], np.float32)
    for batch in (read_batch(examples, rows), resident_reader(examples, device="cpu")(rows)):
        assert batch.inputs.dtype == torch.float32
        assert batch.inputs.tolist() == wanted.tolist()


def test_one_mean_is_for_all_channels_and_integers_become_floats() -> None:
    examples = Examples(np.array([[7, 9]]), np.array([0]), Scaling(mean=(4.0,), std=(2.0,)))
    assert read_batch(examples, np.array([0])).inputs.tolist() == [[1.5, 2.5]]


def test_each_of_several_inputs_is_divided() -> None:
    examples = Examples(INPUTS, np.arange(6), Scaling(divide_by=2))
    inputs = read_batch(examples, np.array([3])).inputs
    assert inputs["a"].tolist() == [[3.0, 3.5]]
    assert inputs["b"].tolist() == [1.5]


def test_scaling_leaves_the_examples_alone() -> None:
    inputs = np.ones((2, 3), np.float32)
    for read in (reader_of, resident_reader):
        read(Examples(inputs, np.arange(2), Scaling(divide_by=2)), device="cpu")(np.array([0, 1]))
    assert (inputs == 1).all()


def test_a_batch_shares_no_memory_with_the_examples() -> None:
    """They may be in the object store, to which torch would write."""
    batch = reader_of(EXAMPLES, device="cpu")(np.array([0]))
    batch.inputs["a"].add_(1.0)
    assert INPUTS["a"][0].tolist() == [0.0, 1.0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_examples_stay_there() -> None:
    batch = reader_of(EXAMPLES, device="cuda")(np.array([2]))
    assert batch.targets.device.type == "cuda"
    assert batch.targets.tolist() == [20]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_every_byte_is_scaled_to_the_bits_of_the_cpu() -> None:
    inputs = np.arange(256, dtype=np.uint8).reshape(256, 1)
    examples = Examples(inputs, np.zeros(256), Scaling(divide_by=255, mean=(0.4914,), std=(0.247,)))
    rows = np.arange(256)
    on_gpu = reader_of(examples, device="cuda")(rows).inputs.cpu()
    assert torch.equal(on_gpu, read_batch(examples, rows).inputs)
