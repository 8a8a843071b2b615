"""Token ids that are kept on disk, by a hash of what they follow from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np

from simfl.data.cache import cache_folder, write_folder
from simfl.data.ragged import Array
from simfl.data.text.tokenizers import Tokens

_VERSION: Final = 1
"""Of the files, and of what is hashed."""


def encode_once(parts: Iterable[str], make: Callable[[], Tokens], *, num_texts: int) -> Tokens:
    """Return token ids, memory-mapped from files if they were made before.

    Without a folder that can be written, they are made each time.

    Args:
        parts: what they follow from: the texts, and whatever else matters.
        make: makes them; texts follow one another.
        num_texts: how many texts there are.
    """
    folder = cache_folder("tokens") / _key(parts)
    with suppress(OSError, ValueError):  # missing, or cut short
        return _mapped(folder, num_texts)
    tokens = make()
    with suppress(OSError, ValueError):
        write_folder(folder, lambda draft: _save(draft, tokens))
        return _mapped(folder, num_texts)
    return tokens


def _key(parts: Iterable[str]) -> str:
    total = hashlib.sha256(f"{_VERSION}".encode())
    for part in parts:
        encoded = part.encode()
        total.update(f" {len(encoded)} ".encode())
        total.update(encoded)
    return total.hexdigest()


def _mapped(folder: Path, num_texts: int) -> Tokens:
    """Read the files of a folder.

    Raises:
        OSError: if they are missing.
        ValueError: if they are not what they should be.
    """
    values: Array = np.load(folder / "values.npy", mmap_mode="r")
    lengths: Array = np.load(folder / "lengths.npy")
    if lengths.shape != (num_texts,) or lengths.sum() != len(values):
        raise ValueError(f"{folder} holds other texts")
    # A plain array, which is pickled without a copy.
    return Tokens.from_lengths(np.asarray(values), lengths)


def _save(folder: Path, tokens: Tokens) -> None:
    np.save(folder / "values.npy", tokens.values)
    np.save(folder / "lengths.npy", tokens.lengths)
