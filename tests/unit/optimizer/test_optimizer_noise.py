import dataclasses
import math

import pytest
import torch

from simfl.optimizer import Context, GaussianNoise, Optimizer
from simfl.vector import Vector

WHERE = Context(seed=3, clients=(5,), round=2, step=4)
NULL = Vector({"a": torch.zeros(2, 3), "b": torch.zeros(17), "c": torch.zeros(())})
MANY = Vector({"a": torch.zeros(100_000)})


def noise(module: GaussianNoise, context: Context = WHERE, like: Vector = NULL) -> Vector:
    return module.update(like, {}, context)[0]


@pytest.mark.parametrize("secure", [False, True])
def test_noise_has_the_moments_of_a_normal_distribution(secure: bool) -> None:
    """Of n = 100,000 draws of N(0, 4), bounds of 6 standard errors, passed but for 2 in 1e9 runs.

    The mean's is 2/√n = 0.0063, that of the standard deviation 2/√(2n) = 0.0045; the share below
    one standard deviation is 0.6827 ± √(0.6827 · 0.3173 / n) = 0.0015.
    """
    drawn = noise(GaussianNoise(std=2.0, secure=secure), like=MANY)["a"].double()
    assert float(drawn.mean()) == pytest.approx(0.0, abs=6 * 0.0063)
    assert float(drawn.std()) == pytest.approx(2.0, abs=6 * 0.0045)
    within = (drawn.abs() < 2.0).double().mean()
    assert float(within) == pytest.approx(math.erf(1 / math.sqrt(2)), abs=6 * 0.0015)


def test_noise_is_added_to_the_gradients() -> None:
    gradients = NULL + 1.0
    assert noise(GaussianNoise(), like=gradients) == noise(GaussianNoise()) + gradients


@pytest.mark.parametrize(
    "change", [{"seed": 4}, {"clients": (6,)}, {"round": 3}, {"step": 5}, {"index": 1}]
)
def test_noise_differs_wherever_the_context_does(change: dict[str, object]) -> None:
    module = GaussianNoise()
    other = noise(module, dataclasses.replace(WHERE, **change))
    assert not torch.equal(noise(module)["b"], other["b"])


def test_a_seed_of_its_own_takes_the_place_of_the_run_s() -> None:
    expected = noise(GaussianNoise(), dataclasses.replace(WHERE, seed=8))
    assert noise(GaussianNoise(seed=8)) == expected


def test_tensors_of_one_shape_get_different_noise() -> None:
    like = Vector({"a": torch.zeros(8), "b": torch.zeros(8)})
    drawn = noise(GaussianNoise(), like=like)
    assert not torch.equal(drawn["a"], drawn["b"])


def test_noise_of_a_stack_is_that_of_each_client_bit_for_bit() -> None:
    clients = (7, 0, 123_456)
    stack = Vector.stack([NULL + 0.5 for _ in clients])
    stacked = noise(GaussianNoise(), dataclasses.replace(WHERE, clients=clients), stack)
    for row, client in zip(stacked.unstack(), clients, strict=True):
        alone = dataclasses.replace(WHERE, clients=(client,))
        assert row == noise(GaussianNoise(), alone, NULL + 0.5)


def test_secure_noise_is_never_the_same() -> None:
    module = GaussianNoise(secure=True)
    assert not module.is_deterministic
    assert not torch.equal(noise(module)["b"], noise(module)["b"])


def test_secure_noise_of_a_stack_differs_between_clients() -> None:
    context = dataclasses.replace(WHERE, clients=(1, 2))
    first, second = noise(GaussianNoise(secure=True), context, Vector.stack([NULL, NULL])).unstack()
    assert not torch.equal(first["b"], second["b"])


def test_two_noise_modules_in_one_list_draw_independently() -> None:
    """Twice the same noise would make the second step's sum exactly twice a single module's."""
    once = Optimizer(1.0, modules=["gaussian-noise"])
    twice = Optimizer(1.0, modules=["gaussian-noise", "gaussian-noise"])
    single = once.compute_updates_from_gradients(None, NULL)
    both = twice.compute_updates_from_gradients(None, NULL)
    assert not torch.allclose(both["b"], 2 * single["b"])
