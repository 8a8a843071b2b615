"""Tokens on disk, with a tokenizer that counts how often it is asked."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from simfl.data.cache import cache_folder
from simfl.data.text.token_cache import encode_once
from simfl.data.text.tokenizers import Tokens

TOKENS = Tokens.from_lengths(np.array([5, 6, 7], np.uint16), np.array([2, 0, 1]))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Maker:
    calls = 0

    def __call__(self) -> Tokens:
        self.calls += 1
        return TOKENS


def ask(make: Maker, *parts: str) -> list[int]:
    tokens = encode_once(parts, make, num_texts=3)
    assert tokens.begins.tolist() == [0, 2, 2]
    return tokens.values.tolist()


def test_the_same_texts_are_encoded_once_and_mapped() -> None:
    make = Maker()
    assert ask(make, "a", "bc") == ask(make, "a", "bc") == [5, 6, 7]
    assert make.calls == 1
    values = encode_once(("a", "bc"), make, num_texts=3).values
    assert type(values) is np.ndarray
    assert isinstance(values.base.base, mmap.mmap)


def test_texts_that_join_to_the_same_are_different() -> None:
    make = Maker()
    ask(make, "a", "bc")
    ask(make, "ab", "c")
    assert make.calls == 2


def test_files_that_are_cut_short_are_made_again() -> None:
    make = Maker()
    ask(make, "a")
    for name in ("values.npy", "lengths.npy"):
        (path,) = cache_folder("tokens").glob(f"*/{name}")
        path.write_bytes(path.read_bytes()[:-1])
        assert ask(make, "a") == [5, 6, 7]
    assert make.calls == 3


def test_another_process_may_write_the_same_meanwhile() -> None:
    inner = Maker()

    def outer() -> Tokens:
        ask(inner, "a")
        return TOKENS

    assert encode_once(("a",), outer, num_texts=3).values.tolist() == [5, 6, 7]
    assert ask(inner, "a") == [5, 6, 7]
    assert inner.calls == 1
    assert len(list(cache_folder("tokens").iterdir())) == 1


def test_drafts_are_removed() -> None:
    ask(Maker(), "a")
    assert len(list(cache_folder("tokens").iterdir())) == 1


def test_without_a_folder_tokens_are_made_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    make = Maker()
    assert ask(make, "a") == ask(make, "a") == [5, 6, 7]
    assert make.calls == 2


def test_the_cache_is_in_the_home_folder_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/ada")
    assert os.fspath(cache_folder("tokens")) == "/home/ada/.cache/simfl/tokens"
