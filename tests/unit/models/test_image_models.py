"""ResNets, MobileNetV2 and the vision transformer, against published sizes and transformers' own.

Shapes: B examples, K classes.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from simfl.errors import ConfigError
from simfl.models import (
    Batch,
    DataShape,
    MobileNetV2,
    ModelSpec,
    ResNet18,
    ResNet34,
    StackedModel,
    TorchModel,
    TorchvisionModel,
    VisionTransformer,
    resolve_names,
)
from simfl.vector import Vector

IMAGENET = DataShape(inputs=(3, 224, 224), num_classes=1000)
IMAGES = DataShape(inputs=(3, 16, 16), num_classes=5)
SMALL = [
    ResNet18(width=8, groups=4),
    MobileNetV2(width=0.1, groups=2),
    VisionTransformer(patch=4, dim=12, depth=2, heads=2, dropout=0.2),
]


def built(spec: ModelSpec, shape: DataShape = IMAGES, dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(0)
    return spec.build(shape).to(dtype)


def batch_of(*sizes: int, shape: tuple[int, ...] = (3, 16, 16)) -> Batch:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(*sizes, *shape, generator=generator, dtype=torch.float64)
    return Batch(inputs, torch.randint(5, sizes, generator=generator))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (ResNet18(), 11_689_512),
        (ResNet18(norm="batch"), 11_689_512),
        (ResNet34(), 21_797_672),
        (MobileNetV2(), 3_504_872),
        (VisionTransformer(), 5_717_416),
        # conv1 3 * 64 * 9 instead of 3 * 64 * 49.
        (ResNet18(stem="small"), 11_689_512 - 64 * 3 * 40),
    ],
)
def test_models_have_the_published_numbers_of_parameters(spec: ModelSpec, expected: int) -> None:
    with torch.device("meta"):
        module = spec.build(IMAGENET)
    assert sum(parameter.numel() for parameter in module.parameters()) == expected


# -- the same network as transformers builds -----------------------------------------------------


def with_group_norm(module: nn.Module, groups: int) -> nn.Module:
    for layer in list(module.modules()):
        for name, child in layer.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(layer, name, nn.GroupNorm(groups, child.num_features))
    return module


def loss_and_gradients(module: nn.Module, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Differentiate by weights that are not what a constructor draws."""
    outputs = module(inputs)
    outputs = getattr(outputs, "logits", outputs)
    gradients = torch.autograd.grad((outputs * outputs).sum(), list(module.parameters()))
    return outputs, dict(zip(dict(module.named_parameters()), gradients, strict=True))


def require_equal(ours: nn.Module, theirs: nn.Module, names: dict[str, str], shape: Any) -> None:
    """Give theirs our weights, and compare outputs and gradients.

    Args:
        ours: of float64.
        theirs: likewise.
        names: theirs by ours.
        shape: of an image.
    """
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in ours.parameters():
            weight += torch.randn(weight.shape, generator=generator, dtype=weight.dtype) * 0.05
    weights = dict(ours.named_parameters())
    assert names.keys() == weights.keys()
    other = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            other[names[name]].copy_(value.reshape(other[names[name]].shape))
    inputs = batch_of(3, shape=shape).inputs
    outputs, gradients = loss_and_gradients(ours, inputs)
    expected, others = loss_and_gradients(theirs, inputs)
    torch.testing.assert_close(outputs, expected)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[names[name]].reshape(gradient.shape))


@pytest.mark.parametrize(("stem", "size"), [("large", 48), ("small", 12)])
def test_resnet18_is_that_of_transformers_with_other_norms(stem: Any, size: int) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 32, 64], depths=[2, 2, 2, 2], layer_type="basic"
    )
    theirs = with_group_norm(transformers.ResNetForImageClassification(config), 4)
    if stem == "small":
        theirs.resnet.embedder.embedder.convolution = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        theirs.resnet.embedder.pooler = nn.Identity()
    shape = DataShape(inputs=(3, size, size), num_classes=2)
    ours = built(ResNet18(width=8, groups=4, stem=stem), shape)
    names = {name: _resnet_name(name) for name, _ in ours.named_parameters()}
    require_equal(ours, theirs.double(), names, (3, size, size))


def _resnet_name(name: str) -> str:
    kinds = {"conv": "convolution", "norm": "normalization"}
    if found := re.match(r"stage(\d)\.(\d)\.residual\.(conv|norm)(\d)\.(.*)", name):
        stage, block, kind, layer, weight = found.groups()
        own = f"layer.{int(layer) - 1}.{kinds[kind]}.{weight}"
    elif found := re.match(r"stage(\d)\.(\d)\.shortcut\.(conv|norm)\.(.*)", name):
        stage, block, kind, weight = found.groups()
        own = f"shortcut.{kinds[kind]}.{weight}"
    else:
        layer, _, weight = name.partition(".")
        start = "resnet.embedder.embedder"
        known = {"stem": f"{start}.convolution", "norm": f"{start}.normalization"}
        return f"{known.get(layer, 'classifier.1')}.{weight}"
    return f"resnet.encoder.stages.{int(stage) - 1}.layers.{block}.{own}"


def test_mobilenet_v2_is_that_of_transformers_with_other_norms() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.MobileNetV2Config(
        tf_padding=False, depth_multiplier=0.35, classifier_dropout_prob=0.0
    )
    theirs = with_group_norm(transformers.MobileNetV2ForImageClassification(config), 8)
    shape = DataShape(inputs=(3, 96, 96), num_classes=2)
    ours = built(MobileNetV2(width=0.35, dropout=0.0), shape)
    # Both hold their layers in the order of the calls.
    pairs = zip(dict(ours.named_parameters()), dict(theirs.named_parameters()), strict=True)
    require_equal(ours, theirs.double(), dict(pairs), (3, 96, 96))


def test_the_vision_transformer_is_that_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        image_size=8,
        patch_size=4,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=24,
        layer_norm_eps=1e-6,
        attn_implementation="eager",
    )
    theirs = transformers.ViTForImageClassification(config).double()
    shape = DataShape(inputs=(3, 8, 8), num_classes=2)
    ours = built(VisionTransformer(patch=4, dim=12, depth=2, heads=3, mlp=24), shape)
    for block in (ours.block1, ours.block2):
        block.attention.qkv = _InThreeLayers(12)
    names = {name: _vit_name(name) for name, _ in ours.named_parameters()}
    require_equal(ours, theirs, names, (3, 8, 8))


class _InThreeLayers(nn.Module):
    """Queries, keys and values of three layers, as transformers has them, joined."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(size, size).double() for _ in range(3))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat([part(inputs) for part in self.parts], dim=-1)


def _vit_name(name: str) -> str:
    start, _, rest = name.partition(".")
    if start == "tokens":
        known = {"class_token": "cls_token", "positions": "position_embeddings"}
        patches = rest.replace("patches", "patch_embeddings.projection")
        return f"vit.embeddings.{known.get(rest, patches)}"
    if not start.startswith("block"):
        return f"{ {'norm': 'vit.layernorm', 'output': 'classifier'}[start] }.{rest}"
    parts = {f"attention.qkv.parts.{i}": f"attention.{k}_proj" for i, k in enumerate("qkv")}
    parts |= {"attention.projection": "attention.o_proj", "norm1": "layernorm_before"}
    parts |= {"norm2": "layernorm_after", "hidden": "mlp.fc1", "projection": "mlp.fc2"}
    layer, _, weight = rest.rpartition(".")
    return f"vit.layers.{int(start[5:]) - 1}.{parts[layer]}.{weight}"


# -- what they are used with ---------------------------------------------------------------------


@pytest.mark.parametrize("spec", SMALL, ids=lambda spec: spec.name)
def test_clients_in_a_stack_have_the_gradients_of_each_alone(spec: ModelSpec) -> None:
    """In float64, where no unit of ReLU is on in one way of computing and off in the other."""
    model = TorchModel(built(spec))
    inputs, targets, *_ = batch_of(2, 3)
    start = model.get_weights()
    starts = [start, start * 1.1]
    stack = StackedModel(model, 2)
    stack.begin(start, 2)
    stack.apply_updates(Vector.stack([own - start for own in starts]))
    stack.seed_step(torch.tensor([5, 6]), 0)
    losses, gradients = stack.compute_loss_and_gradients(Batch(inputs, targets))
    for client, together in enumerate(gradients.unstack()):
        model.set_weights(starts[client])
        model.seed_step(torch.tensor(5 + client), 0)
        loss, alone = model.compute_loss_and_gradients(Batch(inputs[client], targets[client]))
        assert losses[client].item() == pytest.approx(loss.item(), rel=1e-10)
        assert float((together - alone).norm()) < 1e-10 * float(alone.norm())


@pytest.mark.parametrize("spec", SMALL, ids=lambda spec: spec.name)
def test_each_examples_gradient_is_clipped(spec: ModelSpec) -> None:
    """Against autograd, example by example; each has the dropout of its place in the batch."""
    model, batch = TorchModel(built(spec)), batch_of(3)
    singly = TorchModel(model.module, microbatch_size=1)
    for own in (model, singly):
        own.seed_step(torch.tensor(3), 0)
    found, expected = (own.compute_batch_gradients(batch, 0.5) for own in (model, singly))
    assert float(expected.norm()) <= 0.5
    assert float((found - expected).norm()) < 1e-10


def test_bfloat16_trains_a_vision_transformer() -> None:
    model = TorchModel(built(SMALL[2], dtype=torch.float32), precision="bf16")
    batch = batch_of(4)._replace(inputs=batch_of(4).inputs.float())
    before = model.evaluate(batch)["loss"][0]
    for step in range(5):
        model.seed_step(torch.tensor(3), step)
        model.apply_updates(model.compute_batch_gradients(batch) * -0.1)
    assert model.evaluate(batch)["loss"][0] < before


def test_weights_have_names_by_which_scenarios_find_them() -> None:
    resnet, mobilenet, vit = map(built, SMALL)
    assert [*resolve_names(resnet, ["output"])] == ["output.weight", "output.bias"]
    assert "stage2.0.residual.conv1.weight" in resolve_names(resnet, ["stage2"])
    assert "stage2.1.depthwise.conv.weight" in resolve_names(mobilenet, ["*.depthwise.conv*"])
    norms = resolve_names(vit, ["norm"])
    assert {"block1.norm1.weight", "block2.norm2.bias", "norm.weight"} <= {*norms}


# -- what does not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("resnet18", {"width": 48}, "resnet18: groups is 32, but must divide the width 48"),
        ("resnet34", {"stem": "tiny"}, "resnet34: stem is 'tiny'"),
        ("mobilenet-v2", {"groups": 3}, "mobilenet-v2: groups is 3"),
        ("vit", {"heads": 5}, "vit: heads is 5, but must divide dim, 192"),
        ("vit", {"patch": 5}, "vit: patch is 5, but must divide .* 16x16"),
    ],
)
def test_hyper_parameters_that_do_not_fit_are_refused(name: str, config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelSpec.from_name(name, config).build(IMAGES)


def test_the_remedy_is_told_where_torchvision_cannot_be_imported(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    message = "^model torchvision: torchvision cannot be imported .* or use a model of simfl's own"
    with pytest.raises(ConfigError, match=message):
        TorchvisionModel("resnet50").build(IMAGES)
