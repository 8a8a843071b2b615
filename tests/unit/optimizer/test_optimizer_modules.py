"""Two or three steps of each module, with numbers that can be followed by hand."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from toy_models import vector

import simfl
from simfl.errors import ConfigError
from simfl.optimizer import Adam, Context, OptiModule, Yogi, check_plugin
from simfl.scenario import find_scenario
from simfl.vector import Vector


def outputs(name: str, config: dict[str, Any], *gradients: list[float]) -> list[list[float]]:
    module = OptiModule.from_name(name, config)
    state = module.init(vector(w=gradients[0]))
    collected = []
    for step, values in enumerate(gradients, start=1):
        out, state = module.update(vector(w=values), state, Context(step=step))
        collected.append(out["w"].tolist())
    return collected


def test_momentum_adds_up_what_is_left_of_former_gradients() -> None:
    # v1 = 2; v2 = 0.5 · 2 + 4 = 5; v3 = 0.5 · 5 + 0 = 2.5
    assert outputs("momentum", {"beta": 0.5}, [2.0], [4.0], [0.0]) == [[2.0], [5.0], [2.5]]


def test_nesterov_looks_one_step_ahead() -> None:
    # v1 = 2, out 0.5 · 2 + 2 = 3; v2 = 5, out 0.5 · 5 + 4 = 6.5
    config = {"beta": 0.5, "nesterov": True}
    assert outputs("momentum", config, [2.0], [4.0]) == [[3.0], [6.5]]


def test_ewma_averages_from_zero() -> None:
    # s1 = 0.25 · 4 = 1; s2 = 0.75 · 1 + 0.25 · 8 = 2.75
    assert outputs("ewma", {"beta": 0.75}, [4.0], [8.0]) == [[1.0], [2.75]]


def test_yogi_momentum_moves_by_a_share_of_the_gradient() -> None:
    # s1 = 0 - sign(0 - 4) · 0.25 · 4 = 1; s2 = 1 - sign(1 - (-8)) · 0.25 · (-8) = 3
    assert outputs("yogi-momentum", {"beta": 0.75}, [4.0], [-8.0]) == [[1.0], [3.0]]


def test_adagrad_divides_by_the_root_of_the_sum_of_squares() -> None:
    # s = 9, then 9 + 16 = 25: 3 / (3 + 1), 4 / (5 + 1); a zero gradient gives zero.
    found = outputs("adagrad", {"eps": 1.0}, [3.0, 0.0], [4.0, 0.0])
    assert found == [[0.75, 0.0], [pytest.approx(4 / 6, rel=1e-6), 0.0]]


def test_rmsprop_divides_by_the_root_of_the_average_square() -> None:
    # s1 = 0.25 · 16 = 4, out 4 / (2 + 2); s2 = 0.75 · 4 + 0.25 · 52 = 16, out √52 / (4 + 2)
    found = outputs("rmsprop", {"beta": 0.75, "eps": 2.0}, [4.0], [math.sqrt(52.0)])
    assert found == [[1.0], [pytest.approx(math.sqrt(52.0) / 6.0, rel=1e-6)]]


def test_adam_starts_with_steps_of_one_by_its_bias_correction() -> None:
    """m̂ = g and v̂ = g² at t = 1, so out = g / (|g| + eps) whatever the betas are.

    At t = 2, with beta_1 = 0.5, beta_2 = 0.75 and g = 3, 1: m = 0.25 · 3 + 0.5 · 1 = 1.25,
    m̂ = 1.25 / 0.75 = 5/3; v = 0.75 · 0.25 · 9 + 0.25 · 1 = 1.9375, v̂ = 1.9375 / 0.4375.
    """
    config = {"beta_1": 0.5, "beta_2": 0.75, "eps": 1e-12}
    second = (5 / 3) / math.sqrt(1.9375 / 0.4375)
    found = outputs("adam", config, [3.0], [1.0])
    assert found == [[pytest.approx(1.0, rel=1e-6)], [pytest.approx(second, rel=1e-6)]]


def test_amsgrad_never_forgets_the_largest_second_moment() -> None:
    """As above, but v̂ at t = 2 is the larger one of t = 1: max(9, 1.9375 / 0.4375) = 9."""
    config = {"beta_1": 0.5, "beta_2": 0.75, "eps": 1e-12, "amsgrad": True}
    found = outputs("adam", config, [3.0], [1.0])
    assert found[1] == [pytest.approx((5 / 3) / 3.0, rel=1e-6)]


def test_yogi_moves_its_second_moment_by_a_share_of_the_squared_gradient() -> None:
    """beta_1 = 0.5, beta_2 = 0.75, g = 4, 2.

    t = 1: v = 0 + 0.25 · 16 = 4, v̂ = 4 / 0.25 = 16, m̂ = 4: out 4 / 4 = 1.
    t = 2: v - g² = 4 - 4 = 0, whose sign is 0: v = 4, v̂ = 4 / 0.4375; m = 0.5 · 2 + 0.5 · 2 = 2,
    m̂ = 2 / 0.75.
    """
    config = {"beta_1": 0.5, "beta_2": 0.75, "eps": 1e-12}
    second = (2 / 0.75) / math.sqrt(4 / 0.4375)
    found = outputs("yogi", config, [4.0], [2.0])
    assert found == [[pytest.approx(1.0, rel=1e-6)], [pytest.approx(second, rel=1e-6)]]


def test_l2_clipping_scales_each_tensor_to_the_norm() -> None:
    # ‖a‖ = 5 is brought to 1, ‖b‖ = 0.5 stays, c is null.
    module = OptiModule.from_name("l2-clipping", {"max_norm": 1.0})
    gradients = vector(a=[3.0, 4.0], b=[0.5], c=[0.0, 0.0])
    out, _ = module.update(gradients, {}, Context())
    assert out["a"].tolist() == pytest.approx([0.6, 0.8], rel=1e-6)
    assert out.select(["b", "c"]) == gradients.select(["b", "c"])


def test_l2_global_clipping_scales_all_tensors_by_one_factor() -> None:
    # The norm over all is √(9 + 16) = 5: a factor of 1/5 for max_norm 1, of 1 for 6.
    gradients = vector(a=[3.0, 0.0], b=[4.0])
    tight = OptiModule.from_name("l2-global-clipping", {"max_norm": 1.0})
    out, _ = tight.update(gradients, {}, Context())
    assert out["a"].tolist() == pytest.approx([0.6, 0.0], rel=1e-6)
    assert out["b"].tolist() == pytest.approx([0.8], rel=1e-6)
    loose = OptiModule.from_name("l2-global-clipping", {"max_norm": 6.0})
    assert loose.update(gradients, {}, Context())[0] == gradients


def test_global_clipping_leaves_null_gradients_null() -> None:
    null = vector(a=[0.0, 0.0], b=[0.0])
    out, _ = OptiModule.from_name("l2-global-clipping").update(null, {}, Context())
    assert out == null


@pytest.mark.parametrize("name", ["l2-clipping", "l2-global-clipping"])
def test_clipping_does_not_hide_a_gradient_that_is_not_finite(name: str) -> None:
    out, _ = OptiModule.from_name(name).update(vector(a=[math.nan, 1.0]), {}, Context())
    assert not bool(out.is_finite())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_adam_on_a_stack_keeps_the_dtype_of_the_gradients(dtype: torch.dtype) -> None:
    module = OptiModule.from_name("adam", {"eps": 1e-3})
    like = Vector({"w": torch.ones(2, dtype=dtype)})
    state = {key: _stacked(leaf) for key, leaf in module.init(like).items()}
    out, new = module.update(Vector.stack([like, like]), state, Context(clients=(0, 1)))
    assert out["w"].dtype == dtype
    assert new["second"]["w"].dtype == dtype


def _stacked(leaf: Any) -> Any:
    return Vector.stack([leaf, leaf]) if isinstance(leaf, Vector) else torch.stack([leaf, leaf])


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("momentum", {"beta": 1.5}),
        ("adam", {"beta_1": 1.0}),
        ("adagrad", {"eps": 0.0}),
        ("l2-clipping", {"max_norm": 0.0}),
        ("gaussian-noise", {"std": -1.0}),
        ("gaussian-noise", {"seed": 1, "secure": True}),
        ("scaffold-server", {"num_clients": 0}),
    ],
)
def test_hyper_parameters_out_of_bounds_are_refused(name: str, config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=name):
        OptiModule.from_name(name, config)


def reddi(name: str, deltas: np.ndarray, *, eta: float, tau: float) -> np.ndarray:
    """Return the server's weights after each round, from 0, by Algorithm 2 of Reddi et al., 2021.

    https://arxiv.org/abs/2003.00295, lines 11 to 15: with beta_1 = .9, beta_2 = .99, m_-1 = 0 and
    v_-1 = tau^2.
    """
    x, m, v = np.zeros(deltas.shape[1]), np.zeros(deltas.shape[1]), np.full(deltas.shape[1], tau**2)
    weights = []
    for delta in deltas:
        m = 0.9 * m + 0.1 * delta
        if name == "adam":
            v = 0.99 * v + 0.01 * delta**2
        else:
            v = v - 0.01 * delta**2 * np.sign(v - delta**2)
        x = x + eta * m / (np.sqrt(v) + tau)
        weights.append(x)
    return np.array(weights)


@pytest.mark.parametrize("name", ["adam", "yogi"])
def test_without_bias_correction_the_server_takes_the_steps_of_fedopt(name: str) -> None:
    """The paper's Delta is minus the server's gradient; both in float64, up to roundings."""
    deltas = np.random.default_rng(0).normal(scale=[1e-4, 1e-2, 1.0], size=(30, 3))
    scenario = simfl.load_scenario(find_scenario(f"fed{name}"))
    optimizer = scenario.server.optimizer.build()
    weights, found = np.zeros(3), []
    for delta in deltas:
        gradients = Vector({"w": torch.from_numpy(-delta)})
        weights = weights + optimizer.compute_updates_from_gradients(None, gradients)["w"].numpy()
        found.append(weights)
    expected = reddi(name, deltas, eta=0.03, tau=1e-3)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=0)
    assert np.abs(expected[0]).min() > 1e-5


@pytest.mark.parametrize("name", ["adam", "yogi"])
def test_amsgrad_without_bias_correction_divides_by_the_largest_second_moment(name: str) -> None:
    """v = .5 * 1 + .5 * 9 = 5 or 1 + .5 * 9 = 5.5, then a zero gradient: .5 * 5, or as it was."""
    config = {"beta_1": 0.0, "beta_2": 0.5, "eps": 1.0, "amsgrad": True, "bias_correction": False}
    first, second = outputs(name, config, [3.0], [1.0])
    largest = {"adam": 5.0, "yogi": 5.5}[name]
    assert first == [pytest.approx(3 / (math.sqrt(largest) + 1), rel=1e-6)]
    assert second == [pytest.approx(1 / (math.sqrt(largest) + 1), rel=1e-6)]


@pytest.mark.parametrize("module", [Adam, Yogi])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_the_contract_holds_without_bias_correction(module: type, amsgrad: bool) -> None:
    check_plugin(module(bias_correction=False, amsgrad=amsgrad))
