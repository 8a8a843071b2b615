"""Data sets in the JSON files of LEAF.

Shapes: N examples, L characters.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from simfl.component import Count
from simfl.data.arrays import with_our_dtypes
from simfl.data.dataset import Array, Examples
from simfl.data.source import Source, SourceData, file_fault
from simfl.errors import DataError, one_line
from simfl.regular_files import open_regular


@dataclass(frozen=True)
class Leaf(Source):
    """A data set as LEAF's scripts write it: JSON with ``users`` and ``user_data``.

    Each user has a list ``x`` of inputs and a list ``y`` of targets, and is a client. Numbers of
    one shape are an axis. Inputs of text, all of one length, become numbers of characters, (N, L),
    in the order of their code points, and targets that are single characters get the same numbers,
    as for the next character of Shakespeare. For text of several lengths there is ``text``.

    Source: Caldas et al., 2018, https://arxiv.org/abs/1812.01097
    """

    name: ClassVar[str] = "leaf"
    file_fields: ClassVar[tuple[str, ...]] = ("path", "test_path")

    path: str
    """A .json file, or a folder of them, such as ``data/femnist/data/train``."""
    test_path: str | None = None
    """The same with the users' test examples, for ``client_tests``; None: no test split."""
    shape: tuple[Count, ...] = ()
    """The axes of an input, such as [1, 28, 28] for FEMNIST; (): those of the file."""

    def load(self, *, seed: int) -> SourceData:
        """Read the files.

        Raises:
            DataError: if a file is not LEAF's, or examples cannot be used.
        """
        train = _read(self.path)
        test = None if self.test_path is None else _read(self.test_path)
        parts = [train] if test is None else [train, test]
        alphabet = None
        if all(isinstance(x, str) for part in parts for x in part.inputs):
            alphabet = _alphabet(parts)
        examples = [self._examples(part, alphabet) for part in parts]
        # JSON writes 2.0 as 2 at times: a split of whole numbers may belong to one of floats.
        inputs = [np.asarray(one.inputs) for one in examples]
        kind = np.result_type(*inputs)
        examples = [
            replace(one, inputs=x.astype(kind)) for one, x in zip(examples, inputs, strict=True)
        ]
        data = SourceData(
            examples[0],
            None if test is None else examples[1],
            {"client": np.array(train.users)},
            test_columns={} if test is None else {"client": np.array(test.users)},
        )
        return with_our_dtypes(data, origin=self.path)

    def _examples(self, part: _Part, alphabet: Sequence[str] | None) -> Examples:
        if alphabet is None:
            inputs = _array(part.inputs, what=f"{part.path}: x")
            targets = _array(part.targets, what=f"{part.path}: y")
            if self.shape:
                inputs = _reshaped(inputs, self.shape, path=part.path)
            return Examples(inputs, targets)
        targets = _array(part.targets, what=f"{part.path}: y")
        if targets.dtype.kind == "U" and all(len(text) == 1 for text in part.targets):
            targets = numbers_of_characters(part.targets, alphabet, what=f"{part.path}: y")[:, 0]
        inputs = numbers_of_characters(part.inputs, alphabet, what=f"{part.path}: x")
        return Examples(inputs, targets)


def numbers_of_characters(texts: Sequence[str], alphabet: Sequence[str], *, what: str) -> Array:
    """Return where the characters of texts are in a sorted alphabet: (N, L) int32.

    Raises:
        DataError: if the texts have several lengths.
    """
    lengths = {len(text) for text in texts}
    if len(lengths) > 1:
        raise DataError(
            f"{what} holds text of {min(lengths)} to {max(lengths)} characters; write it as "
            ".jsonl, and use source: text"
        )
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    known = np.array([ord(character) for character in alphabet], np.uint32)
    return np.searchsorted(known, codes).astype(np.int32).reshape(len(texts), *lengths)


@dataclass(frozen=True)
class _Part:
    """The examples of a split, user after user."""

    path: str
    users: list[str]
    inputs: list[Any]
    targets: list[Any]


def _read(path: str) -> _Part:
    place = Path(path)
    files = sorted(place.glob("*.json")) if place.is_dir() else [place]
    if not files:
        raise DataError(f"{path} holds no .json file")
    part = _Part(path, [], [], [])
    for file in files:
        for user, own in _user_data(str(file)).items():
            x, y = _lists(own, place=f"{file}, user {user!r}")
            part.users.extend([user] * len(x))
            part.inputs.extend(x)
            part.targets.extend(y)
    if not part.users:
        raise DataError(f"{path} holds no examples")
    return part


def _user_data(path: str) -> dict[str, Any]:
    try:
        with open_regular(path) as file:
            content = json.loads(file.read())
    except OSError as error:
        raise DataError(file_fault(path, error)) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {one_line(error)}") from error
    found = content.get("user_data") if isinstance(content, dict) else None
    if not isinstance(found, dict):
        raise DataError(f"{path} has no user_data, as LEAF's files have")
    return found


def _lists(own: Any, *, place: str) -> tuple[list[Any], list[Any]]:
    x, y = (own.get("x"), own.get("y")) if isinstance(own, dict) else (None, None)
    if not isinstance(x, list) or not isinstance(y, list) or len(x) != len(y):
        raise DataError(f"{place}: x and y are no lists of the same length")
    return x, y


def _alphabet(parts: Sequence[_Part]) -> list[str]:
    found = {character for part in parts for text in part.inputs for character in text}
    targets = {y for part in parts for y in part.targets if isinstance(y, str) and len(y) == 1}
    return sorted(found | targets)


def _array(values: list[Any], *, what: str) -> Array:
    try:
        array = np.array(values)
    except ValueError:
        raise DataError(f"{what} holds lists of several lengths; cut or pad them") from None
    if array.dtype.kind not in "biufU":
        raise DataError(f"{what} holds {array.dtype} values; numbers or text are needed")
    return array


def _reshaped(inputs: Array, shape: tuple[int, ...], *, path: str) -> Array:
    try:
        return inputs.reshape(len(inputs), *shape)
    except ValueError:
        raise DataError(
            f"{path}: inputs of shape {list(inputs.shape[1:])} are not {list(shape)}; change "
            "data.shape"
        ) from None
