"""The codecs.

Shapes: C clients of a stack, D numbers of an update, K numbers of it that are sent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal

import torch
from annotated_types import Interval
from torch import Tensor
from torch.nn import functional

from simfl.component import Count
from simfl.errors import ConfigError
from simfl.transforms.codec import Codec, Message
from simfl.transforms.transform import Shapes, UpdateContext

_HALVES: Final = {"float16": torch.float16, "bfloat16": torch.bfloat16}

_DEFAULT_FRACTION: Final = 0.01

_BITS: Final = 8


@dataclass(frozen=True)
class Cast(Codec):
    """Send each number in 16 bits, rounded to the nearest, ties to even: 2 D bytes.

    float16 has 11 bits of precision, up to 65504; a larger number becomes infinite, and the update
    is not finite (``client.on_nonfinite``). bfloat16 has 8 bits, and float32's range.

    Source: IEEE 754 binary16; https://docs.pytorch.org/docs/stable/tensor_attributes.html
    """

    name: ClassVar[str] = "cast"
    takes_read_only: ClassVar[bool] = True

    dtype: Literal["float16", "bfloat16"] = "float16"
    """The type that is sent."""
    feedback: bool = False
    """Whether a client adds what rounding has taken to its next update (error feedback)."""

    def encode(self, flat_CD: Tensor, context: UpdateContext) -> Message:
        """Return the rounded numbers."""
        return Message({"values": flat_CD.to(_HALVES[self.dtype])})

    def decode(self, message: Message, context: UpdateContext) -> Tensor:
        """Return them in float32."""
        return message.tensors["values"].float()


@dataclass(frozen=True)
class TopK(Codec):
    """Send the K numbers of the update that are largest in magnitude; the others are 0.

    Of equal magnitudes the first ones are sent, in the order of the model's tensors. A message has
    the values in their own type (4 bytes for float32), by position, and the positions as int32
    (int64 if D is 2³¹ or more) or as a bit for each of the D numbers, whichever is shorter: 4 K +
    min(4 K, ⌈D / 8⌉) bytes.

    Source: Stich et al., 2018, https://arxiv.org/abs/1809.07599; Lin et al., 2018,
    https://arxiv.org/abs/1712.01887
    """

    name: ClassVar[str] = "top-k"
    takes_read_only: ClassVar[bool] = True

    fraction: Annotated[float, Interval(gt=0, le=1)] | None = None
    """The share of the D numbers that is sent, rounded to a whole number of at least 1. null: 0.01,
    unless ``count`` is given."""
    count: Count | None = None
    """How many numbers are sent, instead of ``fraction``."""
    feedback: bool = True
    """Whether a client adds what it has not sent to its next update (error feedback). Without it,
    training may not converge."""

    def check(self) -> None:
        """Refuse two numbers of which one would not be used."""
        if self.fraction is not None and self.count is not None:
            raise ConfigError(
                f"{self.name}: fraction is {self.fraction} and count is {self.count}; give one"
            )

    def check_update(self, shapes: Shapes) -> None:
        """Refuse a count above D."""
        size = sum(map(math.prod, shapes.values()))
        if self.count is not None and self.count > size:
            raise ConfigError(f"count is {self.count}, but an update has {size} numbers; lower it")

    def encode(self, flat_CD: Tensor, context: UpdateContext) -> Message:
        """Return the values and their positions."""
        num_clients, size = flat_CD.shape
        mask_CD = largest(flat_CD.abs(), self._number(size))
        values_CK = flat_CD[mask_CD].reshape(num_clients, -1)
        index_type = torch.int32 if size < 2**31 else torch.int64
        num_kept = values_CK.shape[1]
        if num_kept * index_type.itemsize <= -(-size // _BITS):
            indices_CK = mask_CD.nonzero()[:, 1].reshape(num_clients, -1).to(index_type)
            return Message({"indices": indices_CK, "values": values_CK})
        return Message({"bitmap": pack_bits(mask_CD), "values": values_CK})

    def decode(self, message: Message, context: UpdateContext) -> Tensor:
        """Return the values at their positions, and 0 elsewhere."""
        values_CK = message.tensors["values"]
        size = sum(map(math.prod, context.shapes.values()))
        flat_CD = values_CK.new_zeros(len(values_CK), size)
        if "indices" in message.tensors:
            return flat_CD.scatter_(1, message.tensors["indices"].long(), values_CK)
        return flat_CD.masked_scatter_(unpack_bits(message.tensors["bitmap"], size), values_CK)

    def _number(self, size: int) -> int:
        if self.count is not None:
            return min(self.count, size)
        return max(1, round((self.fraction or _DEFAULT_FRACTION) * size))


def largest(numbers_CD: Tensor, num_kept: int) -> Tensor:
    """Return which numbers of each row are the largest: bool [C, D]; of equals, the first ones.

    NaN counts as infinite.
    """
    numbers_CD = numbers_CD.nan_to_num(nan=math.inf, posinf=math.inf)
    kept_CK = numbers_CD.topk(num_kept, dim=1, sorted=False).values
    # The smallest of them is the same whichever of its equals topk has taken.
    least_C1 = kept_CK.amin(dim=1, keepdim=True)
    above_CD, equal_CD = numbers_CD > least_C1, numbers_CD == least_C1
    room_C1 = num_kept - above_CD.sum(dim=1, keepdim=True)
    return above_CD | (equal_CD & (equal_CD.cumsum(dim=1) <= room_C1))


def pack_bits(mask_CD: Tensor) -> Tensor:
    """Return a mask as uint8 [C, ⌈D / 8⌉]; the first of eight is the lowest bit of its byte."""
    padded = functional.pad(mask_CD.to(torch.uint8), (0, -mask_CD.shape[1] % _BITS))
    eights = padded.reshape(len(padded), -1, _BITS)
    return (eights << _shifts(mask_CD)).sum(dim=2, dtype=torch.uint8)


def unpack_bits(packed: Tensor, size: int) -> Tensor:
    """Return the mask that ``pack_bits`` was given: bool [C, D]."""
    bits = (packed[:, :, None] >> _shifts(packed)) & 1
    return bits.reshape(len(packed), -1)[:, :size].bool()


def _shifts(like: Tensor) -> Tensor:
    return torch.arange(_BITS, dtype=torch.uint8, device=like.device)
