"""Modules that clip gradients and add noise to them."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from simfl.component import NonNegative, Positive
from simfl.errors import ConfigError
from simfl.optimizer.plugin import Context, OptiModule, State
from simfl.optimizer.state import with_axes_of
from simfl.seeding import torch_generator
from simfl.vector import Vector


@dataclass(frozen=True)
class L2Clipping(OptiModule):
    """Scale each tensor to an L2 norm of at most ``max_norm``.

    Step: per tensor, out g · min(max_norm / ‖g‖, 1); a null gradient stays null.
    """

    name: ClassVar[str] = "l2-clipping"
    takes_read_only: ClassVar[bool] = True
    keeps_nothing: ClassVar[bool] = True

    max_norm: Positive = 1.0
    """The largest norm a tensor may have."""

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        """Return the clipped gradients; there is no state."""
        norms = gradients.norms()
        clipped = {
            name: tensor * with_axes_of(_factor(norms[name], self.max_norm), tensor)
            for name, tensor in gradients.items()
        }
        return Vector(clipped, stacked=gradients.stacked), state


@dataclass(frozen=True)
class L2GlobalClipping(OptiModule):
    """Scale all tensors by one factor, to an L2 norm of at most ``max_norm`` over all of them.

    Step: out g · min(max_norm / ‖g‖, 1); null gradients stay null.

    Source: Pascanu et al., 2013, Algorithm 1, https://arxiv.org/abs/1211.5063
    """

    name: ClassVar[str] = "l2-global-clipping"
    takes_read_only: ClassVar[bool] = True
    keeps_nothing: ClassVar[bool] = True

    max_norm: Positive = 1.0
    """The largest norm that all tensors together may have."""

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        """Return the clipped gradients; there is no state."""
        return gradients * _factor(gradients.norm(), self.max_norm), state


def _factor(norm: Tensor, max_norm: float) -> Tensor:
    # A norm of zero gives infinity, hence 1: null gradients need no case of their own.
    return (max_norm / norm).clamp(max=1.0)


@dataclass(frozen=True)
class GaussianNoise(OptiModule):
    """Add independent normal noise to every number.

    Step: out g + N(0, std²). The noise is drawn on the CPU by a separate generator for each
    (seed, client, round, step, index in the list of modules): it is the same on every device,
    whether clients are stacked or not, and in a step that is run again.

    After ``client.sclip``, one example changes the gradients by at most sclip / batch_size, so the
    noise multiplier of DP-SGD is std * batch_size / sclip; see ``docs/security.md``.

    With ``secure`` it comes from the operating system's cryptographic source instead. Such noise
    cannot be predicted from the seed, nor reproduced, so neither a run with it nor its resumption
    repeats bit for bit.
    """

    name: ClassVar[str] = "gaussian-noise"
    takes_read_only: ClassVar[bool] = True
    keeps_nothing: ClassVar[bool] = True

    std: NonNegative = 1.0
    """The standard deviation."""
    seed: int | None = None
    """The seed of the noise; None takes the run's."""
    secure: bool = False
    """Draw from the operating system's cryptographic source; takes no seed."""

    def check(self) -> None:
        """Refuse a seed that would not be used."""
        if self.secure and self.seed is not None:
            raise ConfigError(
                f"{self.name}: seed is {self.seed}, but secure noise takes none; drop one of them"
            )

    @property
    def is_deterministic(self) -> bool:
        """Whether noise is drawn by seed."""
        return not self.secure

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        """Return the noisy gradients; there is no state."""
        one = Vector({n: t[0] for n, t in gradients.items()}) if gradients.stacked else gradients
        rows = [self._draw(one, context, client) for client in context.clients]
        noise = Vector.stack(rows) if gradients.stacked else rows[0]
        return noise.mul_(self.std).add_(gradients), state

    def _draw(self, like: Vector, context: Context, client: int) -> Vector:
        if self.secure:
            return like.map(_secure_normal)
        generator = torch_generator(
            context.seed if self.seed is None else self.seed,
            f"{self.name}/{context.index}",
            round=context.round,
            client=client,
            step=context.step,
        )
        return like.map(lambda tensor: _normal(tensor, generator))


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(like.shape, generator=generator, dtype=like.dtype)
    return noise.to(like.device)


def _secure_normal(like: Tensor) -> Tensor:
    """Draw by Box and Muller, 1958, in float64, https://doi.org/10.1214/aoms/1177706645."""
    uniform = _secure_uniform(2 * like.numel()).reshape(2, -1)
    normal = np.sqrt(-2.0 * np.log(uniform[0])) * np.cos(2.0 * math.pi * uniform[1])
    return torch.from_numpy(normal).reshape(like.shape).to(like.device, like.dtype)


def _secure_uniform(count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Draw numbers of 53 bits from the open interval (0, 1)."""
    bits = np.frombuffer(os.urandom(8 * count), dtype=np.uint64) >> np.uint64(11)
    return (bits.astype(np.float64) + 0.5) * 2.0**-53
