"""The models a scenario can name: their sizes by hand, and that they train on fitting data.

Shapes: B examples, T positions, V characters.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from simfl.errors import ConfigError, ImportPathError
from simfl.models import (
    CNN28,
    CNN32,
    MLP,
    Batch,
    CharLSTM,
    DataShape,
    Logistic,
    ModelSpec,
    PythonModel,
    ResNet,
    TorchModel,
    data_shape,
)
from simfl.vector import Vector

IMAGES_28 = DataShape(inputs=(1, 28, 28), num_classes=10)
IMAGES_32 = DataShape(inputs=(3, 32, 32), num_classes=10)
FLAT = DataShape(inputs=(5,), num_classes=3)
TEXT = DataShape(inputs=(7,), num_classes=80, vocabulary=80)
TEXT_EVERYWHERE = DataShape(inputs=(7,), target_shape=(7,), num_classes=80, vocabulary=80)


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def make_two_outputs(*, bias: bool = True, value: float = 7.0) -> nn.Module:
    module = nn.Linear(4, 2, bias=bias)
    nn.init.constant_(module.weight, value)
    return module


def fail() -> nn.Module:
    raise RuntimeError("no such file")


def random_batch(shape: DataShape, num_examples: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(0)
    size = (num_examples, *shape.single_input)
    if shape.vocabulary is None:
        inputs = torch.randn(size, generator=generator)
    else:
        inputs = torch.randint(shape.vocabulary, size, generator=generator)
    size = (num_examples, *shape.target_shape)
    if shape.num_classes is None:
        return Batch(inputs, torch.randn(size, generator=generator))
    return Batch(inputs, torch.randint(shape.num_classes, size, generator=generator))


# -- sizes by hand -------------------------------------------------------------------------

SIZES: list[tuple[ModelSpec, DataShape, int]] = [
    (Logistic(), FLAT, 5 * 3 + 3),
    (Logistic(), IMAGES_28, 784 * 10 + 10),
    (MLP(), FLAT, (5 * 64 + 64) + (64 * 3 + 3)),
    (MLP(hidden=(4, 2)), FLAT, (5 * 4 + 4) + (4 * 2 + 2) + (2 * 3 + 3)),
    # McMahan et al. give 1,663,370: 832 + 51,264 + 1,606,144 + 5,130.
    (CNN28(), IMAGES_28, 1_663_370),
    # conv 896 + 18,496, dense 64 * 14 * 14 * 128 + 128 = 1,605,760, output 1,290.
    (CNN32(), IMAGES_32, 1_626_442),
    # stem 27 * 16 + 32; stages 4,672; 14,528; 57,728 (two convolutions, a projection from the
    # second on, and two numbers per channel and norm); output 650.
    (ResNet(), IMAGES_32, 464 + 4_672 + 14_528 + 57_728 + 650),
    # embedding 80 * 8; LSTM 4 * 256 * (8 + 256 + 2) + 4 * 256 * (256 + 256 + 2); output.
    (CharLSTM(), TEXT, 640 + 272_384 + 526_336 + 256 * 80 + 80),
]


@pytest.mark.parametrize(
    ("spec", "shape", "expected"), SIZES, ids=[f"{s.name}-{n}" for s, _, n in SIZES]
)
def test_a_model_has_as_many_parameters_as_its_layers_add_up_to(spec, shape, expected) -> None:
    assert num_parameters(spec.build(shape)) == expected


def test_two_more_blocks_per_stage_make_a_resnet_of_depth_20() -> None:
    """A block without projection has 18 w^2 weights and 4 w of its norms, w = 16, 32, 64."""
    blocks = sum(2 * (18 * w * w + 4 * w) for w in (16, 32, 64))
    expected = num_parameters(ResNet().build(IMAGES_32)) + blocks
    assert num_parameters(ResNet(depth=20).build(IMAGES_32)) == expected


# -- training ------------------------------------------------------------------------------

TRAINED: list[tuple[ModelSpec, DataShape, tuple[int, ...]]] = [
    (Logistic(), FLAT, (3,)),
    (MLP(activation="gelu", dropout=0.1), IMAGES_28, (10,)),
    (MLP(), DataShape(inputs=(2, 3), target_shape=(4,)), (4,)),
    (MLP(), DataShape(inputs=(5,)), (1,)),
    (MLP(outputs=7), FLAT, (7,)),
    (CNN28(), IMAGES_28, (10,)),
    (CNN28(), DataShape(inputs=(28, 28), num_classes=62), (62,)),
    (CNN28(), DataShape(inputs=(3, 9, 13), num_classes=2), (2,)),
    (CNN32(), IMAGES_32, (10,)),
    (CNN32(), DataShape(inputs=(1, 6, 9), num_classes=4), (4,)),
    (ResNet(width=8, groups=4), IMAGES_32, (10,)),
    (ResNet(width=8), IMAGES_28, (10,)),
    (ResNet(width=8), DataShape(inputs=(8, 8), num_classes=10), (10,)),
    (CharLSTM(hidden=16), TEXT, (80,)),
    (CharLSTM(hidden=16, dropout=0.2), TEXT_EVERYWHERE, (7, 80)),
    (CharLSTM(hidden=16, layers=1, vocabulary=90), TEXT, (90,)),
]


@pytest.mark.parametrize(
    ("spec", "shape", "outputs"), TRAINED, ids=[f"{s.name}-{d.inputs}" for s, d, _ in TRAINED]
)
def test_a_model_trains_on_data_of_its_shape(spec, shape, outputs) -> None:
    torch.manual_seed(0)
    module, batch = spec.build(shape), random_batch(shape)
    assert module(batch.inputs).shape == (4, *outputs)
    model = TorchModel(module, "mse" if shape.num_classes is None else "cross-entropy")
    before = model.evaluate(batch)["loss"][0]
    for _ in range(5):
        model.apply_updates(model.compute_batch_gradients(batch) * -0.03)
    assert model.evaluate(batch)["loss"][0] < before


@pytest.mark.parametrize("name", ["logistic", "mlp", "cnn-28", "cnn-32", "resnet", "char-lstm"])
def test_every_model_can_be_clipped_example_by_example(name: str) -> None:
    shape = TEXT if name == "char-lstm" else IMAGES_28
    torch.manual_seed(0)
    model = TorchModel(ModelSpec.from_name(name).build(shape))
    gradients = model.compute_batch_gradients(random_batch(shape, 2), 0.5)
    # The mean of vectors of norm 0.5 at most; 1e-4 for float32 norms of a million numbers.
    assert 0 < gradients.norm().item() <= 0.5 + 1e-4


def test_every_build_draws_from_the_global_generator_of_torch() -> None:
    def build(seed: int) -> Vector:
        torch.manual_seed(seed)
        return TorchModel(MLP().build(FLAT)).get_weights()

    assert build(1) == build(1)
    assert build(1) != build(2)


def test_a_model_fits_itself_to_arrays() -> None:
    inputs, targets = np.zeros((3, 6), np.float32), np.array([0, 3, 1])
    assert MLP(hidden=[8]).build(data_shape(inputs, targets)).output.out_features == 4


# -- data that do not fit ------------------------------------------------------------------

MISFITS: list[tuple[ModelSpec, DataShape, str]] = [
    (MLP(), TEXT, "model mlp: inputs are integers below 80.*set data.divide_by.*char-lstm"),
    (Logistic(), TEXT, "model logistic: inputs are integers"),
    (MLP(), DataShape(inputs=((2,), (3,))), "model mlp: examples have 2 inputs.*kind: python"),
    (MLP(), DataShape(inputs=()), r"model mlp: .*reshape the inputs to \[examples, 1\]"),
    (MLP(), DataShape(inputs=(5,), target_shape=(4, 4)), r"each target is \[4, 4\] numbers"),
    (CNN28(), FLAT, r"model cnn-28: inputs have shape \[5\], but it takes images.*use mlp"),
    (CNN28(), DataShape(inputs=(3, 3), num_classes=2), "images are 3x3, but it needs 4x4"),
    (CNN32(), DataShape(inputs=(3, 5, 8), num_classes=2), "images are 5x8, but it needs 6x6"),
    (CNN32(), DataShape(inputs=(32, 32, 3), num_classes=2), "have their channels last; transpose"),
    (
        CNN28(),
        DataShape(inputs=(1, 28, 28), target_shape=(5,), num_classes=2),
        r"each target is \[5\] integers",
    ),
    (ResNet(), DataShape(inputs=(1, 2, 3, 4), num_classes=2), "model resnet: inputs have shape"),
    (CharLSTM(), FLAT, "model char-lstm: .* it takes one sequence of integer tokens"),
    (
        CharLSTM(),
        DataShape(inputs=(7,), target_shape=(6,), num_classes=4, vocabulary=4),
        r"model char-lstm: targets have shape \[6\]",
    ),
    (CharLSTM(vocabulary=79), TEXT, "vocabulary is 79, but the data use 80"),
]


@pytest.mark.parametrize(("spec", "shape", "message"), MISFITS, ids=[m for _, _, m in MISFITS])
def test_data_that_do_not_fit_are_a_clear_error(spec, shape, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        spec.build(shape)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("resnet", {"depth": 9}, "depth is 9, but must be 6n"),
        ("resnet", {"depth": 2}, "depth is 2, but must be 6n"),
        ("resnet", {"width": 12}, "groups is 8, but must divide the width 12"),
        ("char-lstm", {"layers": 1, "dropout": 0.5}, "dropout is 0.5, but acts between layers"),
        ("mlp", {"hidden": [0]}, "mlp: hidden is"),
        ("mlp", {"activation": "relo"}, "mlp: activation is 'relo'"),
        ("cnn-32", {"dropout1": 1.5}, "cnn-32: dropout1 is 1.5"),
    ],
)
def test_hyper_parameters_are_checked(name: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelSpec.from_name(name, config)


# -- kind: python --------------------------------------------------------------------------


def test_a_python_model_keeps_the_weights_its_function_gives_it() -> None:
    spec = PythonModel(path=f"{__name__}:make_two_outputs", arguments={"bias": False, "value": 3})
    module = spec.build(FLAT)
    assert module.weight.tolist() == [[3.0] * 4] * 2
    assert module.bias is None


def test_a_class_of_torch_is_a_python_model() -> None:
    spec = PythonModel(path="torch.nn:Linear", arguments={"in_features": 3, "out_features": 1})
    assert isinstance(spec.build(FLAT), nn.Linear)


@pytest.mark.parametrize(
    ("path", "arguments", "error", "message"),
    [
        ("torch.nn:Linea", {}, ImportPathError, "has no 'Linea'"),
        ("math:pi", {}, ConfigError, "'math:pi' is not a function"),
        ("builtins:dict", {}, ConfigError, "returned dict; it must return a torch.nn.Module"),
        (f"{__name__}:fail", {}, ConfigError, "raised RuntimeError: no such file"),
        ("torch.nn:Linear", {"size": 3}, ConfigError, r"\{'size': 3\} raised TypeError"),
    ],
)
def test_a_python_model_that_cannot_be_made_says_why(path, arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        PythonModel(path=path, arguments=arguments).build(FLAT)
