"""Vector: named tensors with arithmetic.

Weights, gradients, updates and auxiliary variables are Vectors. A Vector may be a *stack*: then
every tensor has a leading client axis, and scalars, norms and sums are one number per client.

Shapes in this file: C clients of a stack, ... a tensor's own axes.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from simfl.errors import VectorError
from simfl.vector.arithmetic import (
    ADD,
    DIV,
    MAXIMUM,
    MINIMUM,
    MUL,
    POW,
    SUB,
    Operation,
    Scalar,
)
from simfl.vector.memory import Bytes, Described, own, raw, tensors_on, to_array

Layout: TypeAlias = "tuple[Described, bool]"
"""Name, dtype and shape of each tensor, and whether they are a stack."""


class Vector:
    """Named tensors with + - * / ** by scalars and by Vectors of the same names.

    Operations return new Vectors and leave their inputs alone; only methods that end in ``_``
    change a Vector in place. A Vector pickles as raw memory. Unpickled from read-only memory, as
    the object store's, it is a private copy, since torch would write through; only ``from_memory``
    shares such memory, and makes a Vector that is read-only.

    Args:
        tensors: name -> tensor; not copied.
        stacked: whether each tensor has a leading client axis.
        read_only: whether methods that change it in place raise, as the memory belongs to others.

    >>> Vector({"a": torch.tensor([1.0, 2.0])}) * 2.0
    Vector(a=[2.0, 4.0])
    """

    __slots__ = ("_tensors", "read_only", "stacked")
    __hash__ = None  # type: ignore[assignment]
    __array_ufunc__ = None
    """Makes numpy leave arithmetic of its numbers with Vectors to this class."""

    def __init__(
        self, tensors: Mapping[str, Tensor], *, stacked: bool = False, read_only: bool = False
    ) -> None:
        self._tensors = dict(tensors)
        self.stacked = stacked
        self.read_only = read_only

    # -- reading ---------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(self._tensors)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors, in order; not copies."""
        return tuple(self._tensors.values())

    @property
    def num_clients(self) -> int | None:
        """The length C of the client axis; None if there is no such axis."""
        return len(self.tensors[0]) if self.stacked else None

    @property
    def num_elements(self) -> int:
        """How many numbers there are, over all tensors."""
        return sum(tensor.numel() for tensor in self.tensors)

    @property
    def num_bytes(self) -> int:
        """How many bytes the numbers take."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def items(self) -> Iterable[tuple[str, Tensor]]:
        """Iterate over (name, tensor)."""
        return self._tensors.items()

    def __repr__(self) -> str:
        small = self.num_elements <= 12
        described = (
            f"{name}={tensor.tolist() if small else list(tensor.shape)}"
            for name, tensor in self.items()
        )
        return f"Vector({', '.join(described)}{', stacked' if self.stacked else ''})"

    def __eq__(self, other: object) -> bool:
        """Return whether both hold the same names, dtypes, shapes and numbers (NaN equals NaN)."""
        if not isinstance(other, Vector):
            return NotImplemented
        return (
            self.names == other.names
            and self.stacked == other.stacked
            and all(map(_same_bits, self.tensors, other.tensors))
        )

    # -- making others ---------------------------------------------------------------------

    def map(self, function: Callable[[Tensor], Tensor]) -> Vector:
        """Apply a function to each tensor; it must keep the client axis where there is one."""
        return self._like(function(tensor) for tensor in self.tensors)

    def clone(self) -> Vector:
        """Return a copy in its own memory."""
        return self.map(torch.clone)

    def zeros_like(self) -> Vector:
        """Return zeros of the same names, shapes and dtypes."""
        return self.map(torch.zeros_like)

    def to(self, device: torch.device | str) -> Vector:
        """Return the Vector on a device; itself where it is there already."""
        tensors = [tensor.to(device) for tensor in self.tensors]
        is_there = all(map(operator.is_, tensors, self.tensors))
        return self if is_there else self._like(tensors)

    def as_read_only(self) -> Vector:
        """Return the Vector with the same memory, which its methods do not change in place."""
        return Vector(self._tensors, stacked=self.stacked, read_only=True)

    def select(self, names: Iterable[str]) -> Vector:
        """Return the tensors of these names, in the order given."""
        tensors = {name: self._tensors[name] for name in names}
        return Vector(tensors, stacked=self.stacked, read_only=self.read_only)

    def without(self, names: Collection[str]) -> Vector:
        """Return the tensors of all other names, in order."""
        return self.select(name for name in self if name not in names)

    def __or__(self, other: Vector) -> Vector:
        """Return the tensors of both; the right one's where both have a name.

        If one is a stack, so is the result: the other's tensors are the same for all clients.
        """
        if self.stacked != other.stacked and self and other:
            num_clients = self.num_clients or other.num_clients or 0
            return self.expand(num_clients) | other.expand(num_clients)
        tensors = {**self._tensors, **other._tensors}
        read_only = self.read_only or other.read_only
        return Vector(tensors, stacked=(self or other).stacked, read_only=read_only)

    def expand(self, num_clients: int) -> Vector:
        """Return a stack with these tensors for each of C clients: views; itself if it is one."""
        if self.stacked:
            return self
        tensors = {name: t.expand(num_clients, *t.shape) for name, t in self.items()}
        return Vector(tensors, stacked=True, read_only=True)

    @classmethod
    def stack(cls, vectors: Sequence[Vector]) -> Vector:
        """Stack C Vectors of the same names and shapes into one with a client axis."""
        for vector in vectors[1:]:
            vectors[0]._require_same_names(vector)
        names = vectors[0].names
        return cls({n: torch.stack([v[n] for v in vectors]) for n in names}, stacked=True)

    def rows(self, which: slice | Tensor) -> Vector:
        """Return some clients of a stack: views for a slice, copies for a mask or for indices."""
        return self.map(lambda tensor: tensor[which])

    def unstack(self) -> list[Vector]:
        """Return the C Vectors of a stack; views, not copies."""
        columns = [tensor.unbind() for tensor in self.tensors]
        return [
            Vector(dict(zip(self._tensors, row, strict=True)), read_only=self.read_only)
            for row in zip(*columns, strict=True)
        ]

    @classmethod
    def from_numpy(cls, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Vector:
        """Wrap arrays, without a copy where they may be written to."""
        return cls({name: torch.from_numpy(own(array)) for name, array in arrays.items()})

    def to_numpy(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return name -> array, sharing memory where the tensors are on the CPU.

        numpy has no bfloat16, so such tensors become float32, which is exact.
        """
        return {name: to_array(tensor.detach().cpu()) for name, tensor in self.items()}

    def to_memory(self) -> tuple[Layout, list[Bytes]]:
        """Return the Vector's layout and its memory, which it shares, for ``from_memory``."""
        described = [(name, tensor.dtype, tensor.shape) for name, tensor in self.items()]
        return (described, self.stacked), [raw(tensor) for tensor in self.tensors]

    @classmethod
    def from_memory(cls, layout: Layout, memory: Sequence[Bytes]) -> Vector:
        """Return a read-only Vector on memory that may itself be read-only, without a copy."""
        described, stacked = layout
        return cls(tensors_on(described, memory), stacked=stacked, read_only=True)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, self.to_memory())

    # -- arithmetic ------------------------------------------------------------------------

    def __add__(self, other: Vector | Scalar) -> Vector:
        return self._with(ADD, other)

    def __sub__(self, other: Vector | Scalar) -> Vector:
        return self._with(SUB, other)

    def __mul__(self, other: Vector | Scalar) -> Vector:
        return self._with(MUL, other)

    def __truediv__(self, other: Vector | Scalar) -> Vector:
        return self._with(DIV, other)

    def __pow__(self, other: Vector | Scalar) -> Vector:
        return self._with(POW, other)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: Scalar) -> Vector:
        return -self + other

    def __rtruediv__(self, other: Scalar) -> Vector:
        return self**-1 * other

    def __neg__(self) -> Vector:
        return self._like(torch._foreach_neg(self.tensors))

    def sign(self) -> Vector:
        """Return -1, 0 or 1 for each number."""
        return self._like(torch._foreach_sign(self.tensors))

    def sqrt(self) -> Vector:
        """Return the square root of each number."""
        return self._like(torch._foreach_sqrt(self.tensors))

    def minimum(self, other: Vector | Scalar) -> Vector:
        """Return the smaller number of each pair."""
        return self._with(MINIMUM, other)

    def maximum(self, other: Vector | Scalar) -> Vector:
        """Return the larger number of each pair."""
        return self._with(MAXIMUM, other)

    def add_scaled(self, other: Vector, scale: float) -> Vector:
        """Return self + scale * other, in one pass, each number rounded once."""
        return self._like(torch._foreach_add(self.tensors, self._matching(other), alpha=scale))

    # -- arithmetic in place: each returns self, which must not be read-only ----------------

    def add_(self, other: Vector) -> Vector:
        """Add another Vector in place."""
        return self._in_place(torch._foreach_add_, self._matching(other))

    def sub_(self, other: Vector) -> Vector:
        """Subtract another Vector in place."""
        return self._in_place(torch._foreach_sub_, self._matching(other))

    def mul_(self, factor: Vector | float) -> Vector:
        """Multiply in place."""
        by = self._matching(factor) if isinstance(factor, Vector) else factor
        return self._in_place(torch._foreach_mul_, by)

    def div_(self, divisor: Vector | float) -> Vector:
        """Divide in place."""
        by = self._matching(divisor) if isinstance(divisor, Vector) else divisor
        return self._in_place(torch._foreach_div_, by)

    def sqrt_(self) -> Vector:
        """Take the roots in place."""
        return self._in_place(torch._foreach_sqrt_)

    def sign_(self) -> Vector:
        """Take the signs in place."""
        return self._in_place(torch._foreach_sign_)

    # -- reductions ------------------------------------------------------------------------

    def norms(self) -> dict[str, Tensor]:
        """Return each tensor's L2 norm: 0-d, or [C] for a stack."""
        return {name: self._per_client(tensor).norm(dim=-1) for name, tensor in self.items()}

    def norm(self) -> Tensor:
        """Return the L2 norm over all tensors together: 0-d, or [C] for a stack."""
        norms = list(self.norms().values()) if self.stacked else torch._foreach_norm(self.tensors)
        norm: Tensor = torch.stack(list(norms)).norm(dim=0)
        return norm

    def sums(self) -> dict[str, Tensor]:
        """Return each tensor's sum: 0-d, or [C] for a stack."""
        return {name: self._per_client(tensor).sum(dim=-1) for name, tensor in self.items()}

    def sum(self) -> Tensor:
        """Return the sum over all tensors together: 0-d, or [C] for a stack."""
        return torch.stack(list(self.sums().values())).sum(dim=0)

    def is_finite(self) -> Tensor:
        """Return whether no number is NaN or infinite: 0-d, or [C] for a stack with tensors."""
        if not self:
            return torch.tensor(True)
        # A norm is finite only if all its numbers are, and much faster than a look at each number.
        # Numbers too large to be squared are the exception, so look at each before saying no.
        is_float = all(tensor.is_floating_point() for tensor in self.tensors)
        if is_float and bool((finite := self.norm().isfinite()).all()):
            return finite
        return self._all_finite()

    # -- inside ----------------------------------------------------------------------------

    def _all_finite(self) -> Tensor:
        finite = [self._per_client(tensor).isfinite().all(dim=-1) for tensor in self.tensors]
        return torch.stack(finite).all(dim=0)

    def _like(self, tensors: Iterable[Tensor]) -> Vector:
        return Vector(dict(zip(self._tensors, tensors, strict=True)), stacked=self.stacked)

    def _per_client(self, tensor: Tensor) -> Tensor:
        if not self.stacked:
            return tensor.flatten()
        return tensor.reshape(len(tensor), math.prod(tensor.shape[1:]))

    def _in_place(self, foreach: Callable[..., None], *operand: Any) -> Vector:
        if self.read_only:
            raise VectorError("this Vector is read-only; change a clone() of it instead")
        foreach(self.tensors, *operand)
        return self

    def _require_same_names(self, other: Vector) -> None:
        if self._tensors.keys() == other._tensors.keys():
            return
        different = sorted(self._tensors.keys() ^ other._tensors.keys())
        raise VectorError(f"these names are in one Vector only: {', '.join(different)}")

    def _matching(self, other: Vector) -> list[Tensor]:
        """Return the other's tensors in this one's order.

        Refuses other names, and what torch would broadcast, or fail at without the tensor's name.
        """
        self._require_same_names(other)
        right = [other._tensors[name] for name in self._tensors]
        for (name, tensor), theirs in zip(self._tensors.items(), right, strict=True):
            if tensor.shape != theirs.shape:
                raise VectorError(
                    f"{name!r} has shape {list(tensor.shape)} in one Vector and "
                    f"{list(theirs.shape)} in the other"
                )
        return right

    def _with(self, operation: Operation, other: Vector | Scalar) -> Vector:
        if isinstance(other, Vector):
            return self._with_vector(operation, other)
        if isinstance(other, Tensor | int | float | np.number):
            return self._like(operation.with_scalar(self.tensors, other))
        return NotImplemented

    def _with_vector(self, operation: Operation, other: Vector) -> Vector:
        if self.stacked == other.stacked:
            return self._like(operation.of_lists(self.tensors, self._matching(other)))
        # One Vector for all clients: the tensors broadcast along the client axis.
        self._require_same_names(other)
        tensors = {name: operation.of_two(tensor, other[name]) for name, tensor in self.items()}
        return Vector(tensors, stacked=True)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool(torch.equal(a, b)) or raw(a).tobytes() == raw(b).tobytes()


def _rebuild(layout: Layout, memory: Sequence[Bytes]) -> Vector:
    described, stacked = layout
    return Vector(tensors_on(described, map(own, memory)), stacked=stacked)
