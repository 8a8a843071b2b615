"""SuPerFed against its objective in plain torch, with autograd, on the same batches and draws."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cosine_similarity, cross_entropy

from simfl.algorithms import SuPerFed
from simfl.algorithms.steps import cosine_slope, shuffled
from simfl.seeding import derive_seed, uniforms
from simfl.vector import Vector
from tests.unit.algorithms.federation import Federation, Net64, three_classes

CLIENTS = three_classes()
SIZES = [len(x) for x, _ in CLIENTS]
LRATE, MU, NU, SHARE = 0.2, 0.3, 0.7, 0.3
NET = Net64()
Weights = dict[str, Tensor]
Mixing = Literal["model", "layers"]


def flat(weights: Weights) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in weights.values()])


def draws(k: int, round: int, step: int, mixing: Mixing) -> dict[str, float]:
    """Return lambda for each weight; the network has the layers body and head."""
    seeds = np.array([derive_seed(0, "superfed", round=round, client=k)])
    body, head = (step, step) if mixing == "model" else (2 * step, 2 * step + 1)
    number = {"body.weight": body, "body.bias": body, "head.weight": head, "head.bias": head}
    return {name: float(uniforms(seeds, at)[0]) for name, at in number.items()}


def trained(
    fed: Federation, k: int, w: Weights, v: Weights, *, round: int, mixing: Mixing | None
) -> tuple[Weights, Weights]:
    """Descend on the paper's objective by both; without mixing, by w alone."""
    w_k = {name: tensor.clone() for name, tensor in w.items()}
    for step, (x, y) in enumerate(fed.batches(k, round=round, epochs=2)):
        w_k, v = ({n: t.detach().requires_grad_() for n, t in one.items()} for one in (w_k, v))
        share = draws(k, round, step, mixing) if mixing else dict.fromkeys(w, 0.0)
        mixture = {n: (1 - share[n]) * w_k[n] + share[n] * v[n] for n in w}
        loss = cross_entropy(functional_call(NET, mixture, (x,)), y)
        loss = loss + MU * ((flat(w_k) - flat(w)) ** 2).sum()
        if mixing:
            loss = loss + NU * cosine_similarity(flat(w_k), flat(v), dim=0) ** 2
        loss.backward()
        w_k, v = (
            {n: (t - LRATE * t.grad).detach() if t.grad is not None else t for n, t in one.items()}
            for one in (w_k, v)
        )
    return w_k, {n: tensor.detach() for n, tensor in v.items()}


@pytest.mark.parametrize("stack", [1, 4])
@pytest.mark.parametrize("mixing", ["model", "layers"])
def test_both_models_descend_on_the_papers_objective(stack: int, mixing: Mixing) -> None:
    algorithm = SuPerFed(mixing=mixing, mu=MU, nu=NU, common_rounds=1, share=SHARE)
    fed = Federation(
        algorithm,
        CLIENTS,
        Net64(),
        loss="cross-entropy",
        lrate=LRATE,
        stack=stack,
        batch_size=4,
        epochs=2,
    )
    near: Any = {"rtol": 0, "atol": 1e-10}
    w: Weights = {name: tensor.detach() for name, tensor in NET.named_parameters()}
    own: dict[int, Weights] = {}
    for round, cohort in ((1, (0, 1, 2)), (2, (0, 2)), (3, (0, 1, 2))):
        ends = []
        for k in cohort:
            if round > 1 and k not in own:
                own[k] = dict(shuffled(Vector(w), seed=0, client=k).items())
            mixes = mixing if round > 1 else None
            end, v = trained(fed, k, w, own.get(k, w), round=round, mixing=mixes)
            ends.append(end)
            if mixes:
                own[k] = v
        sizes = [SIZES[k] for k in cohort]
        pairs = list(zip(sizes, ends, strict=True))
        w = {n: sum((s * end[n] for s, end in pairs), 0 * w[n]) / sum(sizes) for n in w}
        fed.run(cohort=cohort)
        for name, tensor in w.items():
            torch.testing.assert_close(fed.weights[name], tensor, **near)
        for k in range(3):
            expected = {n: (1 - SHARE) * w[n] + SHARE * own[k][n] for n in w} if k in own else w
            for name, tensor in expected.items():
                torch.testing.assert_close(fed.personal(k)[name], tensor, **near)


def test_own_models_start_as_permutations_that_differ_by_client() -> None:
    weights = Vector({"a": torch.arange(50.0).reshape(5, 10), "b": torch.ones(3)})
    first, second = (shuffled(weights, seed=0, client=k) for k in (0, 1))
    for one in (first, second):
        assert one["a"].shape == (5, 10)
        assert torch.equal(one["a"].flatten().sort().values, torch.arange(50.0))
    assert (first["a"] != second["a"]).float().mean() > 0.8


def test_weights_of_zeros_have_no_direction() -> None:
    zeros, ones = Vector({"a": torch.zeros(3)}), Vector({"a": torch.ones(3)})
    for one, other in ((zeros, ones), (ones, zeros), (zeros, zeros)):
        assert torch.equal(cosine_slope(one, other)["a"], torch.zeros(3))
