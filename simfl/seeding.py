"""One seed per (purpose, round, client, step): randomness that depends on nothing else.

No global generator is ever drawn from, so that a lost piece of work can be done again, anywhere,
with the same numbers.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["SERVER", "derive_seed", "numpy_generator", "torch_generator"]

SERVER: Final = -1
"""The client id under which the server draws."""


def derive_seed(seed: int, purpose: str, *, round: int = 0, client: int = 0, step: int = 0) -> int:
    """Hash what the randomness is for into a seed of 63 bits.

    >>> derive_seed(0, "shuffle", round=1, client=7) == derive_seed(0, "shuffle", round=1, client=7)
    True
    >>> derive_seed(0, "shuffle", round=1, client=7) == derive_seed(0, "shuffle", round=7, client=1)
    False
    """
    key = struct.pack("<4q", seed, round, client, step) + purpose.encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


def numpy_generator(
    seed: int, purpose: str, *, round: int = 0, client: int = 0, step: int = 0
) -> np.random.Generator:
    """Make the numpy generator of this (purpose, round, client, step)."""
    derived = derive_seed(seed, purpose, round=round, client=client, step=step)
    return np.random.Generator(np.random.Philox(key=derived))


def torch_generator(
    seed: int, purpose: str, *, round: int = 0, client: int = 0, step: int = 0
) -> torch.Generator:
    """Make the torch generator (on the CPU) of this (purpose, round, client, step)."""
    import torch

    derived = derive_seed(seed, purpose, round=round, client=client, step=step)
    return torch.Generator().manual_seed(derived)
