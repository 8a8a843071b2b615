"""Runs on inputs that are scaled when they are read."""

import numpy as np
import pytest

import simfl

NORMALIZE = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}


def run(tmp_path, inputs, stack, **data):
    """Run two rounds on 48 images of 8 clients, and return weights and history."""
    path = tmp_path / "images.npz"
    clients, targets = np.repeat(np.arange(8), 6), np.arange(48) % 3
    arrays = {"inputs": inputs, "targets": targets, "client": clients}
    np.savez(path, **arrays, test_inputs=inputs[:12], test_targets=targets[:12])
    scenario = {
        "rounds": 2,
        "data": {"source": "npz", "path": str(path), **data},
        "model": {"kind": "mlp", "hidden": [5]},
        "client": {"batch_size": 4, "stack": stack, "optimizer": {"lrate": 0.1}},
        "evaluation": {"clients_every": 1},
    }
    result = simfl.run(scenario, out=tmp_path / str(inputs.dtype), backend="inline")
    measures = ("train_loss", "loss", "accuracy")
    history = [{key: record[key] for key in measures} for record in result.history]
    return {name: array.tolist() for name, array in result.weights.items()}, history


@pytest.mark.parametrize("stack", [1, 4])
def test_bytes_are_trained_and_evaluated_to_the_bits_of_the_floats_they_stand_for(tmp_path, stack):
    images = np.random.default_rng(0).integers(0, 256, (48, 3, 2, 2)).astype(np.uint8)
    mean, std = (np.array(NORMALIZE[key], np.float32)[:, None, None] for key in ("mean", "std"))
    floats = (images.astype(np.float32) / np.float32(255) - mean) / std
    from_bytes = run(tmp_path, images, stack, divide_by=255, normalize=NORMALIZE)
    assert from_bytes == run(tmp_path, floats, stack)
