"""Tokenizers, against Python's own encodings and the library."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from simfl.data.text.tokenizers import Bytes, Characters, Tokens, read_tokenizer
from simfl.errors import DataError

tokenizers = pytest.importorskip("tokenizers")

TEXTS = ["to be, or not", "", "naïve ☃ 𝄞", "be not"]


def split(tokens: Tokens) -> list[list[int]]:
    ends = tokens.begins + tokens.lengths
    spans = zip(tokens.begins.tolist(), ends.tolist(), strict=True)
    return [tokens.values[begin:end].tolist() for begin, end in spans]


def word_level(folder: Path, *, marks: bool = False, config: object = None) -> str:
    """Write a tokenizer.json of a few words and return its path."""
    words = ["[UNK]", "<|endoftext|>", "[CLS]", "[SEP]", "to", "be", "not", "a", "mark"]
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if marks:
        made.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    made.enable_padding(length=9)
    made.enable_truncation(max_length=2)
    path = folder / "tokenizer.json"
    made.save(str(path))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return str(path)


def test_bytes_are_those_of_utf_8() -> None:
    assert split(Bytes().encode(TEXTS)) == [list(text.encode()) for text in TEXTS]
    assert (Bytes().end, Bytes().vocabulary.size) == (256, 257)


def test_characters_are_numbered_by_code_point() -> None:
    found = Characters(TEXTS)
    alphabet = sorted(set("".join(TEXTS)))
    assert split(found.encode(TEXTS)) == [[alphabet.index(c) for c in text] for text in TEXTS]
    assert found.end == len(alphabet) == found.vocabulary.size - 1
    assert Characters(["ab"]).vocabulary != Characters(["ac"]).vocabulary


def test_a_file_gives_the_librarys_ids_whole_and_without_padding(tmp_path: Path) -> None:
    found = read_tokenizer(word_level(tmp_path), end=None)
    assert split(found.encode(TEXTS)) == [[4, 5, 0, 0, 6], [], [0, 0, 0], [5, 6]]
    assert (found.end, found.vocabulary.size, found.before, found.after) == (1, 9, (), ())
    assert found.encode(TEXTS).values.dtype == np.uint16


def test_what_surrounds_a_text_is_known(tmp_path: Path) -> None:
    found = read_tokenizer(word_level(tmp_path, marks=True), end=None)
    assert (found.before, found.after) == ((2,), (3,))


def test_the_end_is_that_of_the_configuration_or_the_named_one(tmp_path: Path) -> None:
    path = word_level(tmp_path, config={"eos_token": {"content": "mark"}, "pad_token": "[UNK]"})
    found = read_tokenizer(path, end=None)
    assert (found.end, found.pad) == (8, 0)
    assert read_tokenizer(path, end="[SEP]").end == 3
    with pytest.raises(DataError, match="has no token '</s>'; name one of its tokens by"):
        read_tokenizer(path, end="</s>")


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(DataError, match=r"is not a tokenizer\.json"):
        read_tokenizer(str(path), end=None)
    with pytest.raises(DataError, match="there is no file"):
        read_tokenizer(str(tmp_path / "other.json"), end=None)
