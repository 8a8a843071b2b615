"""Tokenizers: bytes, characters, and those of the library ``tokenizers``.

Shapes: N texts, S tokens of all of them.
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from simfl.data.ragged import Array, Vocabulary
from simfl.data.source import file_fault
from simfl.errors import DataError, import_extra, one_line
from simfl.regular_files import open_regular

_ENDS: Final = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "</s>",
    "<eos>",
    "[EOS]",
    "[SEP]",
)
_BATCH: Final = 1000


@dataclass(frozen=True)
class Tokens:
    """Token ids of N texts."""

    values: Array
    """(S,), uint16 or int32."""
    begins: Array
    """(N,) int64, where each text's begin."""
    lengths: Array
    """(N,) int64."""

    @staticmethod
    def from_lengths(values: Array, lengths: Array) -> Tokens:
        """Return texts that follow one another in the values."""
        return Tokens(values, np.cumsum(lengths) - lengths, lengths)


class Tokenizer(ABC):
    """Maps text to token ids, without those that begin and end it."""

    is_slow: ClassVar[bool] = True
    """Whether it is worth keeping what it returns on disk."""

    vocabulary: Vocabulary
    end: int
    """The token that ends a document."""
    pad: int
    """What fills up a batch."""
    before: tuple[int, ...] = ()
    """The tokens that begin every text, such as a BERT's [CLS]."""
    after: tuple[int, ...] = ()
    """The tokens that end a text that is classified, such as a BERT's [SEP]."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """What holds an id: uint16 if that is enough."""
        return np.dtype(np.uint16 if self.vocabulary.size <= 1 << 16 else np.int32)

    def ids_of(self, text: str) -> list[int]:
        """Return the ids of one text."""
        ids: list[int] = self.encode([text]).values.tolist()
        return ids

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Tokens:
        """Return the ids of some texts."""


class Bytes(Tokenizer):
    """The bytes of UTF-8, and 256 for the end."""

    is_slow = False

    def __init__(self) -> None:
        self.vocabulary = Vocabulary(257, "bytes")
        self.end = self.pad = 256

    def encode(self, texts: Sequence[str]) -> Tokens:
        """Return the ids of some texts."""
        encoded = [text.encode() for text in texts]
        values = np.frombuffer(b"".join(encoded), np.uint8).astype(np.uint16)
        return Tokens.from_lengths(values, _lengths(encoded))


class Characters(Tokenizer):
    """The characters of some texts, in the order of their code points, and one id for the end."""

    is_slow = False

    def __init__(self, texts: Iterable[str]) -> None:
        alphabet = sorted(set[str]().union(*map(set, texts)))
        self._codes = np.array([ord(character) for character in alphabet], np.uint32)
        digest = hashlib.sha256(self._codes.tobytes()).hexdigest()
        self.vocabulary = Vocabulary(len(alphabet) + 1, f"characters-{digest[:16]}")
        self.end = self.pad = len(alphabet)

    def encode(self, texts: Sequence[str]) -> Tokens:
        """Return the ids of some texts."""
        codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
        values = np.searchsorted(self._codes, codes).astype(self.dtype)
        unknown = codes[~np.isin(codes, self._codes)]
        if len(unknown):
            raise DataError(f"the character {chr(unknown[0])!r} does not occur in the data")
        return Tokens.from_lengths(values, _lengths(texts))


class Library(Tokenizer):
    """A tokenizer of the library ``tokenizers``.

    Args:
        tokenizer: the library's.
        name: what errors call it.
        end: the token that ends a document; None: the one that is usually called so.
        pad: what fills up a batch; None: the end.

    Raises:
        DataError: if it has no such token.
    """

    def __init__(
        self, tokenizer: Any, *, name: str, end: str | None = None, pad: str | None = None
    ) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        ids = tokenizer.get_vocab(with_added_tokens=True)
        digest = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
        self._tokenizer = tokenizer
        self.vocabulary = Vocabulary(max(ids.values(), default=-1) + 1, digest[:16])
        self.end = _end_of(ids, end, name=name)
        self.pad = self.end if pad is None else ids.get(pad, self.end)
        plain = tokenizer.encode("a", add_special_tokens=False).ids
        whole = tokenizer.encode("a", add_special_tokens=True).ids
        self.before, self.after = _around(plain, whole)

    def encode(self, texts: Sequence[str]) -> Tokens:
        """Return the ids of some texts."""
        parts, lengths = [np.zeros(0, self.dtype)], []
        for start in range(0, len(texts), _BATCH):
            batch = list(texts[start : start + _BATCH])
            found = self._tokenizer.encode_batch(batch, add_special_tokens=False)
            lengths += [len(one.ids) for one in found]
            parts.append(np.array([i for one in found for i in one.ids], self.dtype))
        return Tokens.from_lengths(np.concatenate(parts), np.array(lengths, np.int64))


def read_tokenizer(path: str, *, end: str | None) -> Library:
    """Read a ``tokenizer.json``; the file ``tokenizer_config.json`` next to it names the end.

    Raises:
        DataError: if it cannot be read, or does not have the token.
        MissingExtraError: if the library is not installed.
    """
    tokenizers = import_extra("tokenizers", what="a tokenizer's file", extra="llm")
    try:
        with open_regular(path) as file:
            tokenizer = tokenizers.Tokenizer.from_str(file.read().decode())
    except OSError as error:
        raise DataError(file_fault(path, error)) from error
    except Exception as error:  # the library raises Exception itself
        raise DataError(f"{path} is not a tokenizer.json: {one_line(error)[:200]}") from error
    config = _config_next_to(path)
    named = end if end is not None else _name_of(config.get("eos_token"))
    return Library(tokenizer, name=path, end=named, pad=_name_of(config.get("pad_token")))


def tokenizer_of_model(path: str, revision: str | None, *, end: str | None) -> Library:
    """Read the tokenizer of a model in a folder or on the hub; its author's code is never run.

    Raises:
        DataError: if it cannot be read, or is not of the library ``tokenizers``.
        MissingExtraError: if transformers is not installed.
    """
    transformers = import_extra("transformers", what="tokenizer: model", extra="llm")
    try:
        found = transformers.AutoTokenizer.from_pretrained(
            path, revision=revision or "main", trust_remote_code=False, use_fast=True
        )
    except Exception as error:
        reason = one_line(error)[:200]
        raise DataError(f"the tokenizer of {path} cannot be read: {reason}") from error
    backend = getattr(found, "backend_tokenizer", None)
    if backend is None:
        raise DataError(
            f"the tokenizer of {path} is {type(found).__name__}, which is written in Python; "
            "save it as a tokenizer.json and name that"
        )
    named = end if end is not None else found.eos_token
    return Library(backend, name=f"the tokenizer of {path}", end=named, pad=found.pad_token)


def _lengths(texts: Sequence[str] | Sequence[bytes]) -> Array:
    return np.array([len(text) for text in texts], np.int64)


def _end_of(ids: dict[str, int], end: str | None, *, name: str) -> int:
    known = [end] if end is not None else [token for token in _ENDS if token in ids]
    if known and known[0] in ids:
        return ids[known[0]]
    what = f"no token {end!r}" if end is not None else "no token that is known to end a document"
    raise DataError(f"{name} has {what}; name one of its tokens by data.end_token")


def _around(plain: list[int], whole: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return what a tokenizer puts before and after a text."""
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return tuple(whole[:start]), tuple(whole[start + len(plain) :])
    return (), ()


def _config_next_to(path: str) -> dict[str, Any]:
    try:
        with open_regular(os.path.join(os.path.dirname(path), "tokenizer_config.json")) as file:
            config = json.loads(file.read())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _name_of(token: Any) -> str | None:
    """Return a special token's text, which files hold plainly or with options."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None
