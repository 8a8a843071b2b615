"""Dropout by hashing: the right share, scaled up, and a mask that depends on its key alone."""

from __future__ import annotations

import pytest
import torch

from simfl.models.dropout import Dropout, seed_dropout


def mask(layer: Dropout, shape: tuple[int, ...]) -> torch.Tensor:
    return layer(torch.ones(shape)) != 0


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_share_is_dropped_and_the_rest_makes_up_for_it(share: float) -> None:
    """100,000 numbers: the share has a standard deviation below 0.0016; five of them allowed."""
    layer = Dropout(share)
    seed_dropout([layer], torch.tensor(5), step=0)
    outputs = layer(torch.ones(1000, 100))
    kept = outputs != 0
    assert kept.float().mean().item() == pytest.approx(1 - share, abs=0.008)
    torch.testing.assert_close(outputs[kept].unique(), torch.tensor([1 / (1 - share)]))


def test_in_evaluation_and_without_a_share_nothing_is_dropped() -> None:
    inputs = torch.ones(3, 4)
    assert torch.equal(Dropout(0.5).eval()(inputs), inputs)
    assert torch.equal(Dropout(0.0)(inputs), inputs)
    assert torch.equal(Dropout(1.0)(inputs), inputs * 0)


def test_steps_layers_and_clients_have_different_masks() -> None:
    """Masks of 10,000 numbers agree in half of them, with a standard deviation of 50."""
    layers = [Dropout(0.5), Dropout(0.5)]
    masks = []
    for key in (1, 2, 2**62):
        for step in (0, 1):
            seed_dropout(layers, torch.tensor(key), step)
            masks += [mask(layer, (10_000,)) for layer in layers]
    for index, one in enumerate(masks):
        for other in masks[:index]:
            assert (one == other).sum().item() == pytest.approx(5000, abs=300)


def test_a_stack_has_the_masks_of_its_clients() -> None:
    layer, keys = Dropout(0.3), torch.tensor([4, 0, 9])
    seed_dropout([layer], keys, step=2)
    stacked = layer.drop(torch.ones(3, 5, 7), layer.key)
    for row, key in enumerate(keys):
        seed_dropout([layer], key, step=2)
        assert torch.equal(layer(torch.ones(5, 7)), stacked[row])


def test_the_key_is_no_weight() -> None:
    assert not Dropout(0.5).state_dict()


def test_masks_may_first_be_made_within_nested_transforms_of_torch_func() -> None:
    """What a transform makes must not be remembered: torch refuses it later."""
    from torch.func import grad, vmap

    layer, inputs = Dropout(0.5), torch.ones(2, 41, 43)  # a shape that no other test has
    seed_dropout([layer], torch.tensor(3), step=0)

    def total(inputs: torch.Tensor) -> torch.Tensor:
        return layer(inputs).sum()

    def at_the_slope(inputs: torch.Tensor) -> torch.Tensor:
        return total(inputs + grad(total)(inputs.detach()))

    found = vmap(grad(at_the_slope))(inputs)
    assert torch.equal(found, vmap(grad(total))(inputs))
    assert torch.equal(found[0], layer(inputs[0]))
