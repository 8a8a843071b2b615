"""Codec: a transform that sends a message, from which the server decodes the update.

Shapes: C clients of a stack, D numbers of an update, ... a tensor's own axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from simfl.states import State
from simfl.transforms.transform import UpdateContext, UpdateTransform
from simfl.vector import Vector


@dataclass(frozen=True)
class Message:
    """What C clients send in place of their updates: a row of each tensor is one client's."""

    tensors: Mapping[str, Tensor]
    """[C, ...] by name, in the types that are sent."""
    sizes: tuple[int, ...] | None = None
    """[C] how many bytes each client sends, where rows are padded to the longest; None: rows are
    sent as they are."""

    @property
    def num_bytes(self) -> tuple[int, ...]:
        """[C] how many bytes each client sends."""
        if self.sizes is not None:
            return self.sizes
        num_clients = len(next(iter(self.tensors.values())))
        return (sum(t.nbytes for t in self.tensors.values()) // num_clients,) * num_clients


class Codec(UpdateTransform):
    """A transform that encodes updates as messages; the last one of its list.

    The client decodes its own message, to add up what the server would decode: the sum over the
    cohort is the same, and can be formed along the way.

    With ``feedback`` a client keeps what a message has lost, and adds it to its next update
    (error feedback): c = decode(encode(u + e)), and then e = u + e - c. So over its rounds the sum
    of all c, plus e, is the sum of all u.

    Source: Stich et al., 2018, Algorithm 1, https://arxiv.org/abs/1809.07599; Karimireddy et al.,
    2019, Algorithm 1, https://arxiv.org/abs/1901.09847
    """

    feedback: bool = False
    """Whether a client adds what a message has lost to its next update. A class may make it a
    field."""

    def encode(self, flat_CD: Tensor, context: UpdateContext) -> Message:
        """Return the messages of C clients.

        Args:
            flat_CD: their updates, each tensor's numbers one after the other (context.shapes).
            context: where this takes place; a single client is C = 1.
        """
        raise NotImplementedError(f"{type(self).__name__} has no encode()")

    def decode(self, message: Message, context: UpdateContext) -> Tensor:
        """Return the updates that the messages stand for, [C, D], of any floating type."""
        raise NotImplementedError(f"{type(self).__name__} has no decode()")

    def init(self, like: Vector) -> State:
        """Return a residual of zeros, with feedback."""
        return {"residual": like.zeros_like()} if self.feedback else {}

    @property
    def keeps_state(self) -> bool:
        """Whether there is a residual to keep."""
        return self.feedback

    def apply(self, update: Vector, state: State, context: UpdateContext) -> tuple[Vector, State]:
        """Return the update that the server decodes, and the new residual."""
        decoded, state, _ = self.transmit(update, state, context)
        return decoded, state

    def transmit(
        self, update: Vector, state: State, context: UpdateContext
    ) -> tuple[Vector, State, tuple[int, ...]]:
        """Do the same, and return how many bytes each client's message has: [C]."""
        owed = update + state["residual"] if self.feedback else update
        message = self.encode(flatten(owed), context)
        decoded = unflatten(self.decode(message, context), like=owed)
        new = {"residual": owed - decoded} if self.feedback else {}
        return decoded, new, message.num_bytes


def flatten(update: Vector) -> Tensor:
    """Return the numbers of an update as new memory, [C, D]; C is 1 for a single client."""
    num_clients = update.num_clients or 1
    return torch.cat([tensor.reshape(num_clients, -1) for tensor in update.tensors], dim=1)


def unflatten(flat_CD: Tensor, *, like: Vector) -> Vector:
    """Return flat numbers as a Vector of the names, shapes and dtypes of another."""
    num_clients = like.num_clients or 1
    lengths = [math.prod(tensor.shape) // num_clients for tensor in like.tensors]
    parts = torch.split(flat_CD, lengths, dim=1)
    tensors = {
        name: part.reshape(tensor.shape).to(tensor.dtype)
        for (name, tensor), part in zip(like.items(), parts, strict=True)
    }
    return Vector(tensors, stacked=like.stacked)
