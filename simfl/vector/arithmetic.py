"""The operations of two operands that Vectors have: on all tensors at once, or tensor by tensor.

Shapes: C clients of a stack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

Scalar: TypeAlias = "float | int | Tensor"
"""A number, a 0-d tensor, or for a stack a tensor of shape [C] with one number per client."""


@dataclass(frozen=True)
class Operation:
    """An operation on numbers, number by number."""

    of_two: Callable[[Tensor, Tensor], Tensor]
    of_lists: Callable[..., Sequence[Tensor]]
    """The same of lists of tensors, or of a list and one number: one call for all."""

    def with_scalar(self, tensors: Sequence[Tensor], scalar: Scalar) -> Sequence[Tensor]:
        """Return the results with a number, or with one number for each client."""
        if isinstance(scalar, Tensor):
            return [self.of_two(tensor, _aligned(scalar, tensor)) for tensor in tensors]
        return self.of_lists(tensors, _plain(scalar))


def _aligned(scalar: Tensor, tensor: Tensor) -> Tensor:
    """Shape one number per client so that it broadcasts over that client's numbers."""
    if tensor.is_floating_point():  # [C] numbers of a wider type would widen the tensor
        scalar = scalar.to(tensor.dtype)
    return scalar if scalar.dim() == 0 else scalar.reshape(-1, *[1] * (tensor.dim() - 1))


def _plain(number: float | np.number[Any]) -> float:
    plain: Any = number.item() if isinstance(number, np.number) else number
    return float(plain) if isinstance(plain, float) else int(plain)


def _minimum(tensor: Tensor, other: Tensor) -> Tensor:
    return torch.minimum(tensor, other.to(tensor.dtype))


def _maximum(tensor: Tensor, other: Tensor) -> Tensor:
    return torch.maximum(tensor, other.to(tensor.dtype))


ADD = Operation(torch.add, torch._foreach_add)
SUB = Operation(torch.sub, torch._foreach_sub)
MUL = Operation(torch.mul, torch._foreach_mul)
DIV = Operation(torch.div, torch._foreach_div)
POW = Operation(torch.pow, torch._foreach_pow)
MINIMUM = Operation(_minimum, torch._foreach_minimum)
MAXIMUM = Operation(_maximum, torch._foreach_maximum)
