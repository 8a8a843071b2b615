"""Augmentation, against its formulas in numpy.

Shapes: N examples, C channels, H height, W width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from simfl import load_scenario
from simfl.data import Augmentation, Crop, Cutout, Draws, Flip, Noise
from simfl.data.augment import augment, check_augmentation
from simfl.errors import ConfigError, ScenarioError
from simfl.seeding import derive_seeds, uniforms
from simfl.simulation import build

NUM = 40
SEEDS = np.random.default_rng(1).integers(2**62, size=NUM)
OF_STEP = derive_seeds(SEEDS, np.zeros_like(SEEDS))
"""Those of the first step's draws."""


def images(*axes: int) -> Tensor:
    return torch.randn(NUM, *axes, generator=torch.Generator().manual_seed(0))


def integers(call: int, low: int, high: int) -> Any:
    return low + np.floor(uniforms(OF_STEP, call) * (high - low)).astype(int)


@pytest.mark.parametrize("axes", [(3, 5, 6), (5, 6)])
def test_flip_mirrors_the_columns_of_some_images(axes: tuple[int, ...]) -> None:
    given = images(*axes)
    found = augment([Flip(0.3)], given, SEEDS).numpy()
    is_flipped = uniforms(OF_STEP, 0) < 0.3
    assert 0 < is_flipped.sum() < NUM / 2
    for image, other, flipped in zip(given.numpy(), found, is_flipped, strict=True):
        np.testing.assert_array_equal(other, image[..., ::-1] if flipped else image)


@pytest.mark.parametrize("axes", [(3, 5, 6), (5, 6)])
def test_crop_shifts_an_image_over_a_border_of_zeros(axes: tuple[int, ...]) -> None:
    given = images(*axes)
    found = augment([Crop(2)], given, SEEDS).numpy()
    tops, lefts = integers(0, 0, 5), integers(1, 0, 5)
    assert {*tops} == {*lefts} == {0, 1, 2, 3, 4}
    for n, (top, left) in enumerate(zip(tops, lefts, strict=True)):
        border = [(0, 0)] * (len(axes) - 2) + [(2, 2), (2, 2)]
        padded = np.pad(given[n].numpy(), border)
        np.testing.assert_array_equal(found[n], padded[..., top : top + 5, left : left + 6])


@pytest.mark.parametrize("axes", [(3, 5, 6), (5, 6)])
def test_cutout_blanks_a_square_around_a_pixel(axes: tuple[int, ...]) -> None:
    given = images(*axes)
    found = augment([Cutout(3)], given, SEEDS).numpy()
    for n, (row, column) in enumerate(zip(integers(0, 0, 5), integers(1, 0, 6), strict=True)):
        expected = given[n].numpy().copy()
        expected[..., max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 0
        np.testing.assert_array_equal(found[n], expected)


def test_noise_is_normal_and_each_examples_own() -> None:
    given = images(4, 50)
    found = augment([Noise(0.5)], given, SEEDS) - given
    # 8,000 numbers: their deviation has a standard error of 0.004, their mean of 0.006.
    assert float(found.std()) == pytest.approx(0.5, abs=0.015)
    assert abs(float(found.mean())) < 0.02
    assert abs(float(torch.corrcoef(found.flatten(1)[:2])[0, 1])) < 0.3
    key = int(derive_seeds(OF_STEP, np.zeros_like(OF_STEP))[7])
    numbers = np.random.Generator(np.random.Philox(key=key)).standard_normal((4, 50), np.float32)
    np.testing.assert_allclose(found[7].numpy(), 0.5 * numbers, atol=1e-6)


def test_draws_are_further_ones_at_each_call_and_those_of_an_example() -> None:
    draws, some = Draws(SEEDS), Draws(SEEDS[5:9])
    for _ in range(2):
        assert torch.equal(draws.uniform(-2.0, 3.0)[5:9], some.uniform(-2.0, 3.0))
        assert torch.equal(draws.normal((2,))[5:9], some.normal((2,)))
        assert torch.equal(draws.integers(0, 9)[5:9], some.integers(0, 9))
    numbers = [draws.uniform(), draws.uniform()]
    assert not torch.equal(*numbers)
    assert 0 <= float(numbers[0].min()) < float(numbers[0].max()) < 1


def test_two_steps_of_a_kind_draw_different_numbers() -> None:
    once = augment([Noise(1.0)], images(3), SEEDS)
    twice = augment([Noise(1.0), Noise(1.0)], images(3), SEEDS)
    assert not torch.allclose(twice - once, once - images(3))


# -- one's own -----------------------------------------------------------------------------------


def brighten(inputs: Tensor, draws: Draws, *, most: float) -> Tensor:
    """Multiply each image with a factor of its own."""
    return inputs * draws.uniform(1.0, most).reshape(-1, 1, 1)


def mixed(inputs: Tensor, draws: Draws) -> Tensor:
    return inputs - inputs.mean()


def drawn_elsewhere(inputs: Tensor, draws: Draws) -> Tensor:
    return inputs + torch.rand(inputs.shape)


def in_place(inputs: Tensor, draws: Draws) -> Tensor:
    return inputs.mul_(2.0)


def shrunk(inputs: Tensor, draws: Draws) -> Tensor:
    return inputs[..., 1:]


def broken(inputs: Tensor, draws: Draws) -> Tensor:
    raise ValueError("no lens")


def test_a_function_of_ones_own_is_a_step() -> None:
    step = Augmentation.from_name(
        "python", {"path": f"{__name__}:brighten", "arguments": {"most": 3.0}}
    )
    check_augmentation(step, images(4, 4))
    found = augment([step], images(4, 4), SEEDS).numpy()
    factors = 1.0 + 2.0 * uniforms(OF_STEP, 0)
    np.testing.assert_allclose(found, images(4, 4).numpy() * factors[:, None, None], rtol=1e-6)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("mixed", "gives an example other values among others than alone"),
        ("drawn_elsewhere", "or draws from elsewhere"),
        ("in_place", "changed the given inputs; return new ones"),
        ("shrunk", r"returned \[40, 4, 3\] torch.float32 for inputs \[40, 4, 4\]"),
    ],
)
def test_a_function_that_breaks_the_contract_is_refused(function: str, message: str) -> None:
    step = Augmentation.from_name("python", {"path": f"{__name__}:{function}"})
    with pytest.raises(ConfigError, match=message):
        check_augmentation(step, images(4, 4))


def late(inputs: Tensor, draws: Draws) -> Tensor:
    return inputs[:7] if len(inputs) > 7 else inputs


def test_a_function_that_breaks_the_contract_later_is_named() -> None:
    step = Augmentation.from_name("python", {"path": f"{__name__}:late"})
    message = r"augmentation python returned \[7, 4, 4\] torch.float32 for inputs \[40, 4, 4\]"
    with pytest.raises(ConfigError, match=message):
        augment([step], images(4, 4), SEEDS)


# -- scenarios -----------------------------------------------------------------------------------

DIGITS = "data={source: digits, partition: {kind: iid, clients: 10}, "
SYNTHETIC = "data={source: synthetic, partition: {kind: iid, clients: 10}, "


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (SYNTHETIC + "augment: [flip]}", r"data\.augment\[0\]: .*flip is for images .* \[\d+\]"),
        (SYNTHETIC + "augment: [noise, crop]}", r"data\.augment\[1\]: .*crop is for images"),
        (
            DIGITS + "augment: [[crop, {padding: 8}]]}",
            "padding is 8, and images are 8x8, .*make it",
        ),
        (DIGITS + "augment: [[cutout, {size: 9}]]}", "size is 9, and images are 8x8, .*make it"),
        (
            DIGITS + f"augment: [[python, {{path: '{__name__}:NUM'}}]]}}",
            "'int' object is not callable; change its fields",
        ),
        (DIGITS + "augment: [rotate]}", "data.augment.*no augmentation named 'rotate'"),
        (DIGITS + "augment: [[flip, {probability: 2}]]}", "probability.* is 2"),
        (
            DIGITS + f"augment: [[python, {{path: '{__name__}:broken'}}]]}}",
            r"data\.augment\[0\]: 'python' fails on a few examples: ValueError: no lens",
        ),
    ],
)
def test_what_does_not_go_with_the_data_is_one_line(data: str, message: str) -> None:
    overrides = ["model={kind: mlp, hidden: [4]}", data]
    with pytest.raises(ScenarioError, match=message) as caught:
        build(load_scenario("quickstart", overrides=overrides))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("algorithm", ["fedsgd", "k-means", "em", "histograms"])
def test_algorithms_without_steps_refuse_it(algorithm: str) -> None:
    with pytest.raises(ScenarioError, match=r"data\.augment: has no effect with algorithm"):
        load_scenario("quickstart", overrides=["data.augment=[noise]", f"algorithm={algorithm}"])


def test_text_is_refused(tmp_path: Any) -> None:
    (tmp_path / "tiny.txt").write_text("to be or not to be, that is the question\n" * 99)
    data = (
        f"data={{source: text, path: {tmp_path / 'tiny.txt'}, augment: [noise], "
        "partition: {kind: iid, clients: 2}}"
    )
    overrides = ["model={kind: char-lstm, hidden: 4}", data, "client.per_round=1"]
    with pytest.raises(ScenarioError, match=r"is for floats, and inputs are integers"):
        build(load_scenario("quickstart", overrides=overrides))


def test_left_out_it_is_not_in_what_a_resumed_run_is_compared_by() -> None:
    plain = load_scenario("quickstart")
    other = load_scenario("quickstart", overrides=["data.augment=[noise]"])
    assert "augment" not in plain.numbers()["data"]
    assert other.numbers()["data"]["augment"] == [{"kind": "noise", "scale": 0.1}]
    assert plain.fingerprint() != other.fingerprint()
