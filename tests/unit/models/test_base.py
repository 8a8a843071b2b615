"""Models that are built from the initial state of another one, and read its base in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from simfl.models import (
    Batch,
    DataShape,
    HuggingFaceModel,
    LoRA,
    ModelSpec,
    TorchModel,
    build_module,
    fixed_names,
)
from simfl.models.base import InitialState, borrow, build_again, initial_state
from simfl.vector import Vector


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    module[0].requires_grad_(False)
    return module


FIXED = ("0.weight", "0.bias")
ANY = DataShape(inputs=(3,))


@pytest.fixture(autouse=True)
def small_bases_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simfl.models.base.LEAST_BASE_BYTES", 1)


def test_a_model_that_borrows_weights_is_the_one_that_has_them() -> None:
    owner = TorchModel(net(0), "mse", fixed=FIXED)
    initial = initial_state(owner, ModelSpec(), ANY)
    assert initial is not None
    assert initial.rest is None
    base = initial.base
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
    initial = initial_state(TorchModel(module, "mse", fixed=FIXED), ModelSpec(), ANY)
    assert initial is not None
    assert initial.base.names == FIXED
    sent = initial.for_other_processes()
    assert sent is not None
    assert sent.base.names == ("0.weight",)
    assert InitialState(initial.base.select(["0.bias"])).for_other_processes() is None


SIZE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
TOKENS = DataShape((8,), (8,), vocabulary=64)
TIED = {"model_type": "llama", "vocab_size": 64, "tie_word_embeddings": True, **SIZE}
BERT = {"model_type": "bert", "vocab_size": 64, **SIZE}
VIT = {"model_type": "vit", "image_size": 8, "patch_size": 2, "num_channels": 1, **SIZE}
CLASSES = {"task": "sequence-classification", "lora": LoRA(targets=("query", "value"))}
PICTURES = {"task": "image-classification", "train": "head"}


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        ({"config": TIED, "dtype": "bf16", "lora": LoRA(dropout=0.1)}, TOKENS),
        ({"config": BERT, **CLASSES}, DataShape((8,), (), 2, 64)),
        ({"config": VIT, **PICTURES}, DataShape((1, 8, 8), (), 10)),
    ],
    ids=["llama", "bert", "vit"],
)
def test_a_model_from_an_initial_state_is_the_one_that_is_built(
    model: dict[str, Any], shape: DataShape
) -> None:
    pytest.importorskip("transformers")
    spec = HuggingFaceModel(**model)
    module = build_module(spec, shape, seed=3)
    fixed = fixed_names(module, [])
    owner = TorchModel(module, fixed=fixed)
    initial = initial_state(owner, spec, shape)
    assert initial is not None
    assert initial.rest is not None
    generator = torch.get_rng_state()
    other = TorchModel(build_again(spec, shape, seed=4, initial=initial), fixed=fixed)
    assert torch.equal(torch.get_rng_state(), generator)
    ours, theirs = (one.module.state_dict(keep_vars=True) for one in (owner, other))
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name])
        assert value.dtype == theirs[name].dtype
        assert value.requires_grad == theirs[name].requires_grad
        # The base is there once; what is trained, once for each model.
        assert (value.data_ptr() == theirs[name].data_ptr()) == (not value.requires_grad)
    first, second = (
        {name: [n for n in state if state[n] is state[name]] for name in state}
        for state in (ours, theirs)
    )
    assert first == second
    # A note of transformers to itself; all else that modules hold is the same.
    differing = [name for name in owner.held.differing(other.held) if "_is_hf_" not in name]
    assert differing == other.held.differing(owner.held) == []
    assert str(owner.module) == str(other.module)
