"""Compare two clients' round in a stack with each of them alone, under a third-party algorithm."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from simfl.client.host import ClientHost
from simfl.client.recipe import ClientRecipe
from simfl.data import FederatedDataset
from simfl.messages import Broadcast, Chunk, ChunkResult
from simfl.states import Kept, KeptState
from simfl.vector import tensors_of

_MAX_BATCH: Final = 256
"""The most examples of a step that is tried out."""
_STEPS: Final = 3
"""About how many steps the larger client takes."""
_NEAR: Final = 1e-3
"""The tolerance, as a share of a tensor's largest number; mixing clients changes per cents."""
_NEAR_ZERO: Final = 1e-5


def find_algorithm_fault(recipe: ClientRecipe, dataset: FederatedDataset) -> str | None:
    """Return why an algorithm gives other results in a stack of two clients than in each alone.

    Two rounds are tried out, the second with what clients keep of the first; the algorithms of
    simfl are not tried out. None: it gives the same.

    Args:
        recipe: what clients do.
        dataset: two of its clients are trained. If they have as many examples, one of them trains
            on half of its own, so that it ends before the other.

    Raises:
        Exception: whatever the algorithm raises for one client alone.
    """
    if type(recipe.algorithm).__module__.startswith("simfl."):
        return None
    clients = _two_clients(dataset)
    dataset = _with_other_sizes(dataset, clients)
    most = int(dataset.num_train_examples(clients).max(initial=1))
    size = min(recipe.work.batch_size or _MAX_BATCH, max(most // _STEPS, 1), _MAX_BATCH)
    work = replace(recipe.work, epochs=1, steps=None, batch_size=size, on_nonfinite="drop")
    alone, together = (
        ClientHost(replace(recipe, work=work, stack=stack), dataset) for stack in (1, 2)
    )
    states: list[KeptState | None] = [None] * len(clients)
    for round in (1, 2):
        broadcast = _broadcast(recipe, round)
        chunk = Chunk(round, 0, clients, len(clients))
        expected = alone.train_chunk(chunk, broadcast, states)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)
                found = together.train_chunk(chunk, broadcast, states)
        except RuntimeWarning as failure:
            return f"{_name(recipe)} fails in a stack: {failure}"
        if not _are_near(_results(expected), _results(found)):
            return f"{_name(recipe)} gives clients other results in a stack than alone"
        kept = expected.states.values()
        states = [one.state if isinstance(one, Kept) else None for one in kept]
    return None


def _name(recipe: ClientRecipe) -> str:
    return f"algorithm {recipe.algorithm.name!r}"


def _two_clients(dataset: FederatedDataset) -> tuple[int, ...]:
    """Return a larger client, but not a huge one, and the smallest; one if there is only one."""
    examples = dataset.num_train_examples()
    held = np.flatnonzero(examples)
    by_size = held[np.argsort(examples[held], kind="stable")]
    others = by_size[1:]
    moderate = others[examples[others] <= _STEPS * _MAX_BATCH]
    larger = moderate[-1:] if len(moderate) else others[:1]
    return (*larger.tolist(), *by_size[:1].tolist())


def _with_other_sizes(dataset: FederatedDataset, clients: Sequence[int]) -> FederatedDataset:
    """Return the data set, the second client's training examples halved if there are as many."""
    examples = dataset.num_train_examples(clients)
    if len(clients) < 2 or examples[0] != examples[1]:
        return dataset
    ends = dataset.holdout_offsets.copy()
    ends[clients[1]] -= examples[1] // 2
    return replace(dataset, holdout_offsets=ends)


def _broadcast(recipe: ClientRecipe, round: int) -> Broadcast:
    weights = recipe.build_model().get_weights()
    weights = weights.without(recipe.personal)
    algorithm = recipe.algorithm
    state = algorithm.start(weights, lambda draw: weights * (1.0 + 0.1 * draw))
    return Broadcast(round, weights, {}, algorithm.send(state))


def _results(result: ChunkResult[Any, KeptState]) -> list[Tensor]:
    """Return the tensors that a chunk contributes and keeps, in one order."""
    roots = [node for node in result.partial.nodes.values() if node is not None]
    values = [[root.total, root.weight, dict(sorted(root.update_sums.items()))] for root in roots]
    kept = [one.state.algorithm for one in result.states.values() if isinstance(one, Kept)]
    numbers = [
        torch.tensor(number, dtype=torch.float64)
        for root in roots
        for number in (root.weight, *root.update_sums.values())
        if isinstance(number, float)
    ]
    return [*tensors_of([values, kept]), *numbers]


def _are_near(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    if [tensor.shape for tensor in one] != [tensor.shape for tensor in other]:
        return False
    return all(_is_near(a.double(), b.double()) for a, b in zip(one, other, strict=True))


def _is_near(a: Tensor, b: Tensor) -> bool:
    finite = a.nan_to_num(posinf=0.0, neginf=0.0).abs()
    allowed = _NEAR * float(finite.max()) + _NEAR_ZERO if a.numel() else 0.0
    return torch.allclose(a, b, rtol=0.0, atol=allowed, equal_nan=True)
