"""Token ids that are kept on disk, by a hash of what they follow from."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np

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
    folder = cache_folder() / _key(parts)
    with suppress(OSError, ValueError):  # missing, or cut short
        return _mapped(folder, num_texts)
    tokens = make()
    with suppress(OSError, ValueError):
        _write(folder, tokens)
        return _mapped(folder, num_texts)
    return tokens


def cache_folder() -> Path:
    """Return the folder of the user's cache: ``$XDG_CACHE_HOME/simfl/tokens`` or under ``~``."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "simfl" / "tokens"


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


def _write(folder: Path, tokens: Tokens) -> None:
    """Write a folder as a whole; another process may write the same one at the same time."""
    draft = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}")
    try:
        draft.mkdir(parents=True)
        np.save(draft / "values.npy", tokens.values)
        np.save(draft / "lengths.npy", tokens.lengths)
        try:
            draft.rename(folder)
        except OSError:
            shutil.rmtree(folder)  # of another version, or cut short, or just written
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
