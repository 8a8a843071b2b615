"""Keyed: Vectors by number, which add up number by number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from simfl.errors import VectorError
from simfl.vector.vector import Vector


class Keyed:
    """Vectors by an integer key, such as a client's id or the number of a model.

    Among what clients send (``Update.sums``), the sum over the cohort has a Vector for each key
    that occurs: each client's own, say, or one for each of several models.

    Args:
        keys: [n] int64, or 0-d for a single client.
        values: a stack of n Vectors, or a single one.

    Raises:
        VectorError: if keys are no integers.

    >>> one = Keyed(torch.tensor(3), Vector({"w": torch.tensor([1.0])}))
    >>> two = Keyed(torch.tensor([3, 5]), Vector({"w": torch.tensor([[2.0], [4.0]])}, stacked=True))
    >>> (one + two)[3], (one + two).keys
    (Vector(w=[3.0]), (3, 5))
    """

    __slots__ = ("keys", "values")

    def __init__(self, keys: Tensor | Sequence[int], values: Vector) -> None:
        numbers = torch.as_tensor(keys).reshape(-1)
        if len(numbers) and (numbers.is_floating_point() or numbers.dtype == torch.bool):
            raise VectorError(f"keys are {numbers.dtype}, but must be integers")
        self.keys: tuple[int, ...] = tuple(numbers.tolist())
        """[n]"""
        self.values = values.expand(len(numbers))
        """The Vectors of the keys, a stack [n, ...]."""

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, key: int) -> Vector:
        row = self.keys.index(key)
        return Vector({name: tensor[row] for name, tensor in self.values.items()})

    def __contains__(self, key: object) -> bool:
        return key in self.keys

    def __add__(self, other: Keyed) -> Keyed:
        names = self.values.names
        joined = {name: torch.cat([self.values[name], other.values[name]]) for name in names}
        return Keyed(self.keys + other.keys, Vector(joined, stacked=True)).merged()

    def __reduce__(self) -> tuple[type[Keyed], tuple[tuple[int, ...], Vector]]:
        return Keyed, (self.keys, self.values)

    def rows(self, which: Sequence[int]) -> Keyed:
        """Return some of the keys with their Vectors, by their places."""
        index = torch.tensor(list(which), dtype=torch.int64)
        return Keyed([self.keys[place] for place in which], self.values.rows(index))

    def merged(self) -> Keyed:
        """Return each key once, in ascending order: Vectors of the same key are added up."""
        places: dict[int, list[int]] = {}
        for place, key in enumerate(self.keys):
            places.setdefault(key, []).append(place)
        ordered = sorted(places)
        rows = {
            name: torch.stack([_sum(tensor, places[key]) for key in ordered])
            for name, tensor in self.values.items()
        }
        return Keyed(ordered, Vector(rows, stacked=True))


def _sum(tensor: Tensor, places: Sequence[int]) -> Tensor:
    """Add up rows in the order of their places."""
    total = tensor[places[0]]
    for place in places[1:]:
        total = total + tensor[place]
    return total
