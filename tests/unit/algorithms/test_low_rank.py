"""Algorithms on low-rank adapters, against the papers' formulas in torch and numpy, in float64.

Clients take two full steps of gradient descent; those of rank r really have B and A of that rank.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from simfl.algorithms import FedAvg, FlexLoRA, FLoRA, flora
from simfl.algorithms.low_rank import best_of_rank
from simfl.errors import ConfigError
from simfl.vector import Vector
from tests.unit.algorithms.federation import Adapted64, Federation, Linear64, least_squares

RANK, LRATE, SCALE = 2, 0.03, 2.0
CLIENTS = [(x, np.stack([y, y * y, -y], axis=1)) for x, y in least_squares(features=4)]
SHARES = np.array([len(x) for x, _ in CLIENTS]) / sum(len(x) for x, _ in CLIENTS)
EXACT: dict[str, Any] = {"rtol": 0, "atol": 1e-10}
STACKS = pytest.mark.parametrize("stack", [1, 4])
RANKS = pytest.mark.parametrize("ranks", [(), (2, 1)])

A, B = "layer.lora_A.default.weight", "layer.lora_B.default.weight"
BASE, OFFSET = "layer.base_layer.weight", "offset"


def trained(
    client: int, start: dict[str, Tensor], *, rank: int = RANK, constant: tuple[str, ...] = (BASE,)
) -> dict[str, Tensor]:
    """Return the weights of a client after its steps."""
    x, y = (torch.from_numpy(part.astype(np.float32)).double() for part in CLIENTS[client])
    now = {**start, A: start[A][:rank], B: start[B][:, :rank]}
    for _ in range(2):
        leaves = {n: t.detach().clone().requires_grad_(n not in constant) for n, t in now.items()}
        weight = leaves[BASE] + SCALE * leaves[B] @ leaves[A]
        mse_loss(x @ weight.T + leaves[OFFSET], y).backward()
        now = {n: t.detach() - (0 if t.grad is None else LRATE * t.grad) for n, t in leaves.items()}
    return now


def federation(algorithm: Any, module: nn.Module, **options: Any) -> Federation:
    return Federation(algorithm, CLIENTS, module, lrate=LRATE, epochs=2, **options)


def mean(values: list[Tensor]) -> np.ndarray[Any, Any]:
    """Return the average over clients, weighted by their examples."""
    return np.sum([p * t.numpy() for p, t in zip(SHARES, values, strict=True)], axis=0)


def rank_of(client: int, ranks: tuple[int, ...]) -> int:
    return ranks[client % len(ranks)] if ranks else RANK


@RANKS
@STACKS
def test_flexlora_is_the_best_of_its_rank_for_the_mean_of_products(
    stack: int, ranks: tuple[int, ...]
) -> None:
    fed = federation(FlexLoRA(ranks=ranks), Adapted64(), stack=stack)
    for _ in range(2):
        before = dict(fed.weights.items())
        ends = [trained(k, before, rank=rank_of(k, ranks)) for k in range(4)]
        after = fed.run().weights
        product = mean([end[B] @ end[A] for end in ends])
        left, sizes, right = np.linalg.svd(product)
        best = (left[:, :RANK] * sizes[:RANK]) @ right[:RANK]
        assert np.abs(product - best).max() > 1e-3  # the mean has a larger rank
        np.testing.assert_allclose(after[B] @ after[A], best, **EXACT)
        first = sizes[0] * np.outer(left[:, 0], right[0])  # what a client of rank 1 begins with
        np.testing.assert_allclose(after[B][:, :1] @ after[A][:1], first, **EXACT)
        np.testing.assert_allclose(after[OFFSET], mean([end[OFFSET] for end in ends]), **EXACT)


@RANKS
@STACKS
def test_flora_adds_the_mean_of_products_to_the_base(
    stack: int, ranks: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = {k: torch.from_numpy(np.random.default_rng(k).normal(size=(RANK, 4))) for k in range(4)}
    zeros = torch.zeros(3, RANK).double()
    monkeypatch.setattr(flora, "_drawn", lambda local, k: Vector({A: drawn[k], B: zeros}))
    module = Adapted64(frozen=(), is_new=True)
    names = [name for name, _ in module.named_parameters()]
    fed = federation(FLoRA(ranks=ranks).for_model(module, names), module, stack=stack)
    for _ in range(2):
        before = dict(fed.weights.items())
        ends = [
            trained(k, {**before, A: drawn[k], B: zeros}, rank=rank_of(k, ranks)) for k in range(4)
        ]
        after = fed.run().weights
        stacked_A = torch.cat([p * end[A] for p, end in zip(SHARES, ends, strict=True)])
        stacked_B = torch.cat([end[B] for end in ends], dim=1)
        merged = before[BASE] + SCALE * stacked_B @ stacked_A
        assert (merged - before[BASE]).abs().max() > 0.01
        np.testing.assert_allclose(after[BASE], merged, **EXACT)
        np.testing.assert_allclose(after[OFFSET], mean([end[OFFSET] for end in ends]), **EXACT)
        assert torch.equal(after[A], before[A])
        assert not after[B].any()


def test_floras_new_adapters_are_those_of_peft_for_each_client_and_round() -> None:
    """Uniform within 1 / sqrt(inputs), as ``nn.init.kaiming_uniform_(a=sqrt(5))``; B is 0."""
    module = Adapted64(frozen=(), is_new=True)
    fed = federation(FLoRA(scale=SCALE), module)
    seen = []
    for round in (1, 2):
        for client in (0, 1):
            local = fed.host._trainer.local(client, fed.snapshot.broadcast, None)
            new = flora._drawn(local, client)
            seen.append(new[A])
            assert not new[B].any()
            assert 0.25 < float(new[A].abs().max()) <= 0.5, round
        fed.run()
    assert len({tuple(a.flatten().tolist()) for a in seen}) == 4


@STACKS
def test_ffa_lora_has_no_error_of_the_mean_and_fedit_has(stack: int) -> None:
    """Sun et al. (2024), section 3: with one A the mean of B_k A is the mean of B_k, times A."""
    alone, both = Adapted64(frozen=(A, BASE)), Adapted64()
    initial = {name: tensor.detach().clone() for name, tensor in both.named_parameters()}
    for module, constant, is_exact in ((alone, (A, BASE), True), (both, (BASE,), False)):
        fed = federation(FedAvg(), module, stack=stack).run()
        ends = [trained(k, initial, constant=constant) for k in range(4)]
        np.testing.assert_allclose(fed.weights[B], mean([end[B] for end in ends]), **EXACT)
        np.testing.assert_allclose(fed.weights[A], mean([end[A] for end in ends]), **EXACT)
        product = mean([end[B] @ end[A] for end in ends])
        error = np.abs((fed.weights[B] @ fed.weights[A]).numpy() - product).max()
        assert error < 1e-12 if is_exact else error > 1e-3
        assert torch.equal(fed.weights[A], initial[A]) == is_exact


@STACKS
def test_fedsa_lora_shares_a_and_each_client_keeps_its_b(stack: int) -> None:
    """Guo et al. (2025), algorithm 1."""
    fed = federation(FedAvg(), Adapted64(), personal=(B,), stack=stack)
    start = {name: tensor.detach().clone() for name, tensor in Adapted64().named_parameters()}
    own = [start[B]] * 4
    for _ in range(2):
        ends = [trained(k, {**start, B: own[k]}) for k in range(4)]
        fed.run()
        start = {**start, **{n: torch.from_numpy(mean([e[n] for e in ends])) for n in (A, OFFSET)}}
        own = [end[B] for end in ends]
        assert B not in fed.weights
        np.testing.assert_allclose(fed.weights[A], start[A], **EXACT)
        for client in range(4):
            state: Any = fed.engine._states.get(client)
            np.testing.assert_allclose(state.personal[B], own[client], **EXACT)


def test_ranks_beyond_a_layers_size_are_zero() -> None:
    left, right = torch.eye(2).double() * 3, torch.ones(2, 5).double()
    b, a = best_of_rank(left, right, rank=4)
    np.testing.assert_allclose(b @ a, left @ right, **EXACT)
    assert a.shape == (4, 5)
    assert not b[:, 2:].any()


BOTH = [A, B, OFFSET]


@pytest.mark.parametrize(
    ("algorithm", "module", "shared", "says"),
    [
        (FlexLoRA(), Linear64(3), ["w"], "the model has none"),
        (FlexLoRA(), Adapted64(), [A, OFFSET], "lora_B.default.weight' is not; set"),
        (FlexLoRA(ranks=(1, 3)), Adapted64(), BOTH, "ranks has 3, but adapters of rank 2"),
        (FLoRA(), Adapted64(is_new=True), BOTH, r"base_layer.weight', which is not trained .*set"),
        (FLoRA(), Adapted64(), [BASE, *BOTH], "begins with new adapters, but .* is not 0; set"),
    ],
)
def test_what_cannot_be_is_refused(
    algorithm: Any, module: nn.Module, shared: list[str], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        algorithm.for_model(module, shared)


@pytest.mark.parametrize("algorithm", [FLoRA(), FlexLoRA()])
def test_adapters_of_embeddings_are_refused(algorithm: Any) -> None:
    """peft holds their A and B as parameters, and the product is B A transposed."""
    module = Adapted64(is_new=True)
    module.lora_embedding_A = nn.ParameterDict({"default": torch.zeros(2, 3)})
    with pytest.raises(ConfigError, match=r"'lora_embedding_A.default' is of an embedding"):
        algorithm.for_model(module, [BASE, *BOTH, "lora_embedding_A.default"])
