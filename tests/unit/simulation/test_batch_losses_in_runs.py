"""Losses of a whole batch in runs: with personal weights, SCAFFOLD, other algorithms, a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import simfl
from simfl.errors import ScenarioError
from simfl.simulation import build

CLIENTS, FEATURES, CLASSES, LRATE = 5, 4, 3, 0.3


def scenario(loss: Any, **changes: Any) -> dict[str, Any]:
    """Return a scenario of unequal clients, who lack classes."""
    client = {"steps": 3, "batch_size": 8, "optimizer": {"lrate": LRATE}, "stack": 1}
    return {
        "rounds": 3,
        "seed": 2,
        "data": {
            "source": "synthetic",
            "clients": CLIENTS,
            "features": FEATURES,
            "max_examples": 60,
            "classes": CLASSES,
            "test_fraction": 0.2,
        },
        "model": {"kind": "mlp", "hidden": [6], "loss": loss} | changes.pop("model", {}),
        "client": client | changes.pop("client", {}),
    } | changes


def weights(made: dict[str, Any], out: Path, **how: Any) -> dict[str, np.ndarray[Any, Any]]:
    return simfl.run(made, out=out, backend="inline", **how).weights


def assert_close(one: Any, other: Any, tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_allclose(array, other[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("stack", [1, 4])
@pytest.mark.parametrize("personal", [[], ["output"]])
def test_the_teacher_is_what_the_client_starts_from(
    stack: int, personal: list[str], tmp_path: Path
) -> None:
    """In a single step teacher and student are the same, so that the term has no gradient."""
    kd = ["distillation", {"strength": 50.0, "temperature": 2.0}]
    found, expected = (
        weights(
            scenario(loss, model={"personal": personal}, client={"steps": 1, "stack": stack}),
            tmp_path / name,
        )
        for name, loss in [("distillation", kd), ("plain", "cross-entropy")]
    )
    assert_close(found, expected, 2e-5)  # the term is 200 times a difference of rounding errors


@pytest.mark.parametrize("stack", [1, 8])
def test_scaffold_corrects_the_gradients_of_sam(stack: int, tmp_path: Path) -> None:
    """Karimireddy et al., 2020, Algorithm 1, option II, with the gradient at w + rho g / |g|."""
    made = scenario(
        ["sam", {"rho": 0.2}],
        model={"kind": "logistic", "hidden": None},
        client={
            "batch_size": None,
            "stack": stack,
            "optimizer": {"lrate": LRATE, "modules": ["scaffold-client"]},
        },
        server={
            "optimizer": {"lrate": 1.0, "modules": ["scaffold-server"]},
            "weighting": "uniform",
        },
    )
    del made["model"]["hidden"]
    simulation = build(simfl.load_scenario(made))
    start = simulation.server.build_model().get_weights()
    w = torch.cat([tensor.double().flatten() for tensor in start.tensors])
    c, own = torch.zeros_like(w), torch.zeros(CLIENTS, len(w), dtype=torch.float64)
    for _ in range(3):
        ends = torch.stack([_trained(simulation, k, w, c - own[k]) for k in range(CLIENTS)])
        new = own - c + (w - ends) / (3 * LRATE)
        c, own, w = c + (new - own).mean(dim=0), new, ends.mean(dim=0)
    found = np.concatenate([array.ravel() for array in weights(made, tmp_path / "run").values()])
    np.testing.assert_allclose(found, w.numpy(), rtol=1e-5, atol=2e-6)


def _trained(simulation: Any, client: int, start: Tensor, correction: Tensor) -> Tensor:
    """Return a client's weights after three corrected steps of SAM on all of its examples."""
    rows = simulation.dataset.train_rows(client)
    inputs = torch.from_numpy(simulation.dataset.train.inputs[rows]).double()
    targets = torch.from_numpy(simulation.dataset.train.targets[rows]).long()

    def gradient(w: Tensor) -> Tensor:
        leaf = w.clone().requires_grad_()
        cut = CLASSES * FEATURES
        logits = inputs @ leaf[:cut].reshape(CLASSES, FEATURES).T + leaf[cut:]
        return torch.autograd.grad(F.cross_entropy(logits, targets), leaf)[0]

    w = start
    for _ in range(3):
        g = gradient(w)
        w = w - LRATE * (gradient(w + 0.2 * g / g.norm()) + correction)
    return w


@pytest.mark.parametrize(
    ("algorithm", "loss"),
    [
        ("moon", "fedlc"),
        ("ditto", "sam"),
        ("per-fedavg", ["sam", {"of": "fedrs"}]),
        (["fedrep", {"head": ["output"], "head_epochs": 1}], ["feddecorr", {"layer": "output"}]),
    ],
)
def test_under_other_algorithms_stacks_give_the_numbers_of_single_clients(
    algorithm: Any, loss: Any, tmp_path: Path
) -> None:
    made = scenario(loss, algorithm=algorithm)
    if algorithm == "per-fedavg":  # which has steps of its own
        made["client"].pop("steps")
    one, many = (
        weights(made | {"client": made["client"] | {"stack": n}}, tmp_path / f"{n}") for n in (1, 4)
    )
    assert_close(one, many, 2e-5)


def test_an_algorithm_that_computes_outputs_itself_refuses_a_loss_of_the_weights() -> None:
    with pytest.raises(ScenarioError, match=r"'sam' needs the model's weights.*as this algorithm"):
        build(simfl.load_scenario(scenario("sam", algorithm="moon")))


def test_a_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    made = scenario(["sam", {"of": "fedlc"}], client={"per_round": 3, "stack": 2})
    expected = weights(made, tmp_path / "whole")
    weights(made | {"rounds": 2}, tmp_path / "halves")
    found = weights(made, tmp_path / "halves", resume="auto")
    for name, array in expected.items():
        assert array.tobytes() == found[name].tobytes()
