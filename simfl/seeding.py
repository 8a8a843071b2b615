"""One seed per (purpose, round, client, step): randomness that depends on nothing else.

simfl never draws from a global generator, so lost work can be repeated on any process with the
same results.
"""

from __future__ import annotations

import hashlib
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = [
    "SERVER",
    "NotAloneError",
    "Undrawn",
    "derive_child",
    "derive_seed",
    "derive_seeds",
    "global_generators",
    "hashed_orders",
    "is_alone",
    "numpy_generator",
    "one_of_several",
    "require_alone",
    "torch_generator",
    "torch_state",
    "uniforms",
]

Array: TypeAlias = "np.ndarray[Any, Any]"

_GENERATORS: Final = threading.RLock()
_THREAD: Final = threading.local()

SERVER: Final = -1
"""The client id that the server uses for its own random draws."""

# The constants of SplitMix64, see ``hashed_orders``.
_GAMMA: Final = 0x9E3779B97F4A7C15
_MIX_1: Final = 0xBF58476D1CE4E5B9
_MIX_2: Final = 0x94D049BB133111EB
_ALL: Final = 2**64 - 1

# The Mersenne Twister in the state of a torch generator: 32-bit words stored as 64 bits each,
# after the seed and three counters; see ``aten/src/ATen/CPUGeneratorImpl.cpp`` in torch.
_NUM_WORDS: Final = 624
_WORDS: Final = slice(24, 24 + 8 * _NUM_WORDS)


def derive_seed(seed: int, purpose: str, *, round: int = 0, client: int = 0, step: int = 0) -> int:
    """Hash the arguments into a 63-bit seed.

    >>> derive_seed(0, "shuffle", round=1, client=7) == derive_seed(0, "shuffle", round=1, client=7)
    True
    >>> derive_seed(0, "shuffle", round=1, client=7) == derive_seed(0, "shuffle", round=7, client=1)
    False
    """
    digest = _hash(seed, purpose, round, client, step, num_bytes=8)
    return int.from_bytes(digest, "little") >> 1


def derive_seeds(seeds: Array, steps: Array) -> Any:
    """Derive a 63-bit seed for each pair; vectorized, where ``derive_seed`` would be slow.

    Args:
        seeds: any 63-bit integers, int64.
        steps: from 0, of the same shape.

    Source: SplitMix64, see ``hashed_orders``.
    """
    hashed = _splitmix(seeds.astype(np.uint64), steps.astype(np.uint64))
    return (hashed >> np.uint64(1)).astype(np.int64)


def uniforms(seeds: Array, step: int) -> Any:
    """Return a number from the uniform distribution over [0, 1) for each seed: float64.

    Args:
        seeds: any 63-bit integers, int64.
        step: from 0: which of a seed's numbers.

    >>> uniforms(np.array([5, 6]), 0).round(3).tolist()
    [0.387, 0.74]
    """
    return (derive_seeds(seeds, np.full_like(seeds, step)) >> 10) * 2.0**-53


def derive_child(seed: int, step: int) -> int:
    """Derive one seed as ``derive_seeds`` does, but without numpy, which is faster for a few.

    >>> derive_child(7, 3) == int(derive_seeds(np.array([7]), np.array([3]))[0])
    True
    """
    bits = (seed + (step + 1) * _GAMMA) & _ALL
    bits = ((bits ^ (bits >> 30)) * _MIX_1) & _ALL
    bits = ((bits ^ (bits >> 27)) * _MIX_2) & _ALL
    return (bits ^ (bits >> 31)) >> 1


def hashed_orders(seeds_K: Array, lengths_K: Array) -> Array:
    """Draw K random permutations at once; for short ones, much faster than K generators.

    Each permutation sorts 0 to length - 1 by SplitMix64 hashes under its seed; ties have a
    probability below length² / 2^65.

    Args:
        seeds_K: one for each permutation, int64, not negative.
        lengths_K: the length of each permutation.

    Returns:
        The permutations, concatenated: int64.

    Source: Steele, Lea and Flood, 2014, https://doi.org/10.1145/2714064.2660195

    >>> orders = hashed_orders(np.array([5, 6]), np.array([3, 2]))
    >>> sorted(orders[:3].tolist()), sorted(orders[3:].tolist())
    ([0, 1, 2], [0, 1])
    """
    seeds = seeds_K.astype(np.uint64)
    orders: Array
    if len(lengths_K) and (lengths_K == lengths_K[0]).all():
        # The same result as below, ten times as fast for a hundred permutations.
        hashes_KL = _splitmix(seeds[:, None], np.arange(lengths_K[0], dtype=np.uint64))
        orders = hashes_KL.argsort(axis=1, kind="stable").ravel()
        return orders
    owners = np.repeat(np.arange(len(lengths_K)), lengths_K)
    positions = np.arange(len(owners)) - np.repeat(np.cumsum(lengths_K) - lengths_K, lengths_K)
    hashes = _splitmix(seeds[owners], positions.astype(np.uint64))
    orders = positions[np.lexsort((hashes, owners))]
    return orders


def _splitmix(seeds: Array, positions: Array) -> Any:
    """Return the values at these positions of the sequences with these seeds; all are uint64."""
    bits = seeds + (positions + np.uint64(1)) * np.uint64(_GAMMA)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(_MIX_1)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(_MIX_2)
    return bits ^ (bits >> np.uint64(31))


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

    generator = torch.Generator()
    generator.set_state(torch_state(seed, purpose, round=round, client=client, step=step))
    return generator


def torch_state(
    seed: int, purpose: str, *, round: int = 0, client: int = 0, step: int = 0
) -> torch.Tensor:
    """Return the state of ``torch_generator``, as ``torch.Generator.get_state`` does: uint8.

    ``manual_seed`` uses only 32 bits, which collide about a hundred times in a million draws. So
    all 624 words of the Mersenne Twister come from Philox, with a 128-bit hash of the arguments as
    its key.
    """
    import torch

    key = np.frombuffer(_hash(seed, purpose, round, client, step, num_bytes=16), dtype="<u8")
    state = _blank_torch_state().copy()
    words = state[_WORDS].view(np.uint64)
    words[:] = np.random.Philox(key=key).random_raw(_NUM_WORDS) >> np.uint64(32)
    return torch.from_numpy(state)


class NotAloneError(BaseException):
    """One of several threads needs what a process has once, such as torch's global generators.

    It is no error of anyone: the work is done again while no other thread runs.
    """


@contextmanager
def global_generators(devices: Sequence[int] = ()) -> Iterator[None]:
    """Reserve the process's global torch generators for this thread; restore them at the end.

    Args:
        devices: GPUs whose generators are reserved as well.

    Raises:
        NotAloneError: in a thread that is one of several.
    """
    import torch

    require_alone()
    with _GENERATORS, torch.random.fork_rng(devices=list(devices)):
        yield


@contextmanager
def one_of_several(state: torch.Tensor) -> Iterator[None]:
    """Let this thread be one of several that train at the same time.

    Args:
        state: of torch's global generator on the CPU, which the thread that started the others has
            reserved, and which none of them may change.
    """
    _THREAD.state = state
    try:
        yield
    finally:
        del _THREAD.state


def is_alone() -> bool:
    """Return whether this thread is not one of several."""
    return not hasattr(_THREAD, "state")


def require_alone() -> None:
    """Raise NotAloneError in a thread that is one of several."""
    if not is_alone():
        raise NotAloneError


class Undrawn:
    """Check, in one of several threads, that torch's global generator stays unused meanwhile.

    It is no generator, which would be closed in whatever thread collects it if its own thread were
    ended on the way into the context.

    Raises:
        NotAloneError: at the end, if that has happened, whatever else was raised.
    """

    def __enter__(self) -> None:
        self._state = _THREAD.state

    def __exit__(self, *_: object) -> None:
        import torch

        if not torch.equal(torch.default_generator.get_state(), self._state):
            raise NotAloneError


@lru_cache(maxsize=1)
def _blank_torch_state() -> Array:
    """Return the state of a freshly seeded torch generator."""
    import torch

    state: Array = torch.Generator().manual_seed(0).get_state().numpy()
    return state


def _hash(seed: int, purpose: str, round: int, client: int, step: int, *, num_bytes: int) -> bytes:
    key = struct.pack("<4q", seed, round, client, step) + purpose.encode()
    return hashlib.blake2b(key, digest_size=num_bytes).digest()
