"""Low-rank adapters: what clients train and send of them, and the mean of their products.

An adapter adds the product B A to a linear layer's weights. Names of its factors are those of peft.

Shapes: C clients of a stack, K those of a round, R the rank, I inputs and O outputs of a layer;
A [R, I], B [O, R].
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn

from simfl.algorithms.algorithm import Algorithm, Local, Total
from simfl.component import Count
from simfl.errors import ConfigError
from simfl.models import Batch
from simfl.vector import Keyed, Vector

_A: Final = ".lora_A."
_B: Final = ".lora_B."
_EMBEDDING: Final = "lora_embedding_A."


@dataclass(frozen=True)
class OfAdapters(Algorithm):
    """What algorithms have in common whose clients send adapters of their own ranks."""

    sends_delta: ClassVar[bool] = False
    objective_over: ClassVar[str | None] = "loss"
    ranks: tuple[Count, ...] = ()
    """Client k has the rank ``ranks[k mod their number]``, of at most ``model.lora.rank``; without
    any, all have that rank."""


def factors(names: Iterable[str]) -> dict[str, str]:
    """Return the name of each adapter's B by that of its A.

    >>> factors(["q.base_layer.weight", "q.lora_A.default.weight", "q.lora_B.default.weight"])
    {'q.lora_A.default.weight': 'q.lora_B.default.weight'}
    """
    return {name: name.replace(_A, _B) for name in names if _A in name}


def layer_of(factor: str) -> str:
    """Return the name of the layer that has an adapter, by that of its A."""
    return factor.partition(_A)[0]


def require_adapters(
    algorithm: str, module: nn.Module, shared: Collection[str], ranks: Sequence[int]
) -> dict[str, str]:
    """Return the names of the adapters' factors.

    Raises:
        ConfigError: unless there are some, all of linear layers, both factors of each are matrices
            that clients send, and have the ranks.
    """
    weights = dict(module.named_parameters())
    pairs = factors(weights)
    unsent = [name for pair in pairs.items() for name in pair if name not in shared]
    if not pairs or unsent:
        what = f"{unsent[0]!r} is not" if unsent else "the model has none"
        raise ConfigError(
            f"{algorithm!r} needs adapters whose A and B are both trained and shared: {what}; set "
            "model.lora, and leave them out of model.personal and model.fixed"
        )
    if embedding := next((name for name in weights if _EMBEDDING in name), None):
        raise ConfigError(
            f"{algorithm!r} is for linear layers, but {embedding!r} is of an embedding; leave it "
            "out of model.lora.targets"
        )
    for pair in pairs.items():
        for name in pair:
            if weights[name].dim() != 2:
                shape = list(weights[name].shape)
                raise ConfigError(f"{algorithm!r} is for linear layers, but {name!r} is {shape}")
    rank = min(len(weights[name]) for name in pairs)
    if ranks and max(ranks) > rank:
        raise ConfigError(f"{algorithm!r}: ranks has {max(ranks)}, but adapters of rank {rank}")
    return pairs


# -- the clients' side ----------------------------------------------------------------------------


def train_adapters(local: Local, start: Vector, ranks: Sequence[int], **options: Any) -> Vector:
    """Train, client k with the first ``ranks[k mod their number]`` of each rank, and 0 for others.

    Args:
        local: the clients' round.
        start: where training begins.
        ranks: none: all clients have the whole rank.
        options: those of ``Local.train``.
    """
    if not ranks:
        return local.train(start, **options)
    own = torch.tensor(ranks, device=local.clients.device)[local.clients % len(ranks)]
    part = _part(local.weights, own)
    objective = partial(_loss_of_part, frozenset(part))
    end = local.train(_cut(start, part), objective=objective, given=(part,), **options)
    return _cut(end, part)


def _part(weights: Vector, ranks: Tensor) -> Vector:
    """Return which rows of A and columns of B clients have: 1 or 0, [C, R, 1] and [C, 1, R]."""
    kept: dict[str, Tensor] = {}
    for a, b in factors(weights).items():
        has = torch.arange(len(weights[a]), device=ranks.device) < ranks[..., None]
        has = has.to(weights[a].dtype)
        kept |= {a: has[..., :, None], b: has[..., None, :]}
    return Vector(kept, stacked=ranks.dim() > 0)


def _cut(weights: Vector, part: Vector) -> Vector:
    own = {name: weights[name] * has for name, has in part.items()}
    return weights | Vector(own, stacked=part.stacked)


def _loss_of_part(cut: Collection[str], model: Any, v: Any, batch: Batch, part: Any) -> Tensor:
    """Return the loss with the client's ranks alone, whatever is added to gradients of others."""
    loss: Tensor = model.loss({n: t * part[n] if n in cut else t for n, t in v.items()}, batch)
    return loss


def adapter_sums(local: Local, end: Vector) -> dict[str, Any]:
    """Return the sums of an update: each client's adapters, and the mean of what else is trained.

    Args:
        local: the clients' round.
        end: where it has led, of the names that are sent.

    Returns:
        ``adapters``, Keyed: A and weight times B, under the client's id; ``weight``; and ``rest``,
        weight times start minus end.
    """
    pairs = factors(end)
    own = end.select(pairs) | end.select(pairs.values()) * local.weight
    sums: dict[str, Any] = {"adapters": Keyed(local.clients, own), "weight": local.weight}
    if rest := end.without({*pairs, *pairs.values()}):
        sums["rest"] = (local.weights.select(rest) - rest) * local.weight
    return sums


# -- the server's side ----------------------------------------------------------------------------


def mean_of_rest(total: Total) -> Mapping[str, Tensor]:
    """Return the mean of start minus end of what is not an adapter, by name."""
    rest = total.sums.get("rest", Vector({}))
    return {name: tensor / total.sums["weight"] for name, tensor in rest.items()}


def mean_product(total: Total, a: str, b: str) -> tuple[Tensor, Tensor]:
    """Return the factors of the weighted mean of the clients' B A: [O, K R] and [K R, I], float64.

    These are the clients' factors side by side (FLoRA, equation 5), so the mean is exact.
    """
    adapters = total.sums["adapters"].values
    A_KRI, B_KOR = adapters[a].double(), adapters[b].double() / total.sums["weight"]
    return B_KOR.transpose(0, 1).flatten(1), A_KRI.flatten(0, 1)


def best_of_rank(left: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return B = U S and A = V^T of the R largest singular values of a product, in this order.

    The product itself, of the size of the layer, is never formed. Of each pair of singular vectors
    the largest number in A is positive. Ranks beyond the size of the layer are 0.

    Args:
        left: [O, N].
        right: [N, I].
        rank: R.
    """
    Q_left, R_left = torch.linalg.qr(left)
    Q_right, R_right = torch.linalg.qr(right.T)
    U, S, Vh = torch.linalg.svd(R_left @ R_right.T, full_matrices=False)
    most = min(rank, len(S))
    B = left.new_zeros(len(left), rank)
    A = right.new_zeros(rank, right.shape[1])
    B[:, :most] = Q_left @ U[:, :most] * S[:most]
    A[:most] = Vh[:most] @ Q_right.T
    signs = A.gather(1, A.abs().argmax(dim=1, keepdim=True)).sign()
    return B * signs.T, A * signs
