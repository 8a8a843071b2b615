"""How often the host waits for a GPU, by torch's debug mode for synchronization."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

import simfl
from simfl.client import ClientHost
from simfl.client.batches import moving_reader, resident_reader
from simfl.data import Examples
from simfl.messages import Broadcast, Chunk
from simfl.simulation import build

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.fixture(autouse=True)
def _waiting_again():
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("reader", [resident_reader, moving_reader])
def test_a_batch_is_read_without_a_wait(reader) -> None:
    read = reader(Examples(np.arange(6, dtype=np.float32), np.arange(6) * 10), device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    batch = read(np.array([[2, 4], [1, 0]])[:, :1])
    torch.cuda.set_sync_debug_mode("default")
    assert batch.targets.tolist() == [[20], [10]]


@pytest.mark.parametrize("stack", [1, 4])
def test_more_steps_wait_no_more_often(stack: int) -> None:
    assert num_waits(epochs=3, stack=stack) == num_waits(epochs=1, stack=stack) > 0


def num_waits(*, epochs: int, stack: int) -> int:
    """Count the waits in a chunk of four clients, most of whom have a short last batch."""
    clients = {"kind": "quantity", "clients": 4, "alpha": 5.0}
    plain = {
        "rounds": 1,
        "data": {"source": "digits", "partition": clients},
        "model": {"kind": "mlp", "hidden": [16]},
        "client": {"epochs": epochs, "batch_size": 32, "optimizer": {"lrate": 0.1}},
    }
    simulation = build(simfl.load_scenario(plain))
    order = np.argsort(-simulation.dataset.num_train_examples(), kind="stable").tolist()
    recipe = replace(simulation.client, stack=stack)
    host = ClientHost(recipe, simulation.dataset, device="cuda:0")
    broadcast = Broadcast(1, simulation.server.build().get_weights(), {})
    chunk = Chunk(1, 0, tuple(order), len(order))
    host.train_chunk(chunk, broadcast, [None] * len(order))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        host.train_chunk(chunk, broadcast, [None] * len(order))
        torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(one.message) for one in caught)
