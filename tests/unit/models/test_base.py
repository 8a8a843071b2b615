"""Fixed weights that processes share: which are worth it, and models that borrow them."""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from simfl.models import Batch, TorchModel
from simfl.models.base import borrow, unshared_base
from simfl.vector import Vector


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    module[0].requires_grad_(False)
    return module


FIXED = ("0.weight", "0.bias")


def test_a_model_that_borrows_weights_is_the_one_that_has_them() -> None:
    owner = TorchModel(net(0), "mse", fixed=FIXED)
    base = unshared_base(owner)
    assert base.names == FIXED
    # As from the object store: memory that can only be read.
    memory = [np.frombuffer(array.tobytes(), np.uint8) for array in base.to_memory()[1]]
    assert not any(array.flags.writeable for array in memory)
    read_only = Vector.from_memory(base.to_memory()[0], memory)
    module = net(1)
    borrow(module, read_only)
    borrower = TorchModel(module, "mse", fixed=FIXED)
    borrower.set_weights(owner.get_weights())
    addresses = {memory[0].ctypes.data, memory[1].ctypes.data}
    assert {module[0].weight.data_ptr(), module[0].bias.data_ptr()} == addresses
    batch = Batch(torch.randn(5, 3), torch.randn(5, 2))
    loss, gradients = owner.compute_loss_and_gradients(batch)
    found, its = borrower.compute_loss_and_gradients(batch)
    assert loss == found
    assert gradients == its
    borrower.apply_updates(its)
    assert torch.equal(module[0].weight, owner.module[0].weight)


def test_weights_in_a_mapped_file_are_shared_already(tmp_path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"0.weight": torch.ones(4, 3), "0.bias": torch.ones(4)}, path)
    storage = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=path.stat().st_size)
    on_file = torch.empty(0, dtype=torch.uint8).set_(storage)
    start = path.stat().st_size - 16
    module = net(0)
    module[0].bias.data = on_file[start:].view(torch.float32)
    assert module[0].bias.tolist() == [1.0] * 4
    assert unshared_base(TorchModel(module, "mse", fixed=FIXED)).names == ("0.weight",)
