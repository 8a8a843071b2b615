"""Text as tokens, against Python's lists of the same documents."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from simfl.component import Component
from simfl.data import Ragged, SourceData, Text
from simfl.errors import ConfigError, DataError

END = 256
ROWS = [
    {"q": "how?", "a": "so", "who": "ann", "kind": "good", "id": 1},
    {"q": "", "a": "maybe, maybe", "who": "bob", "kind": "bad", "id": 2},
    {"q": "why?", "a": "", "who": "ann", "kind": "good", "id": 3},
]


def write(path: Path, rows: Iterable[object] = ROWS) -> str:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(path)


@pytest.fixture
def jsonl(tmp_path: Path) -> str:
    return write(tmp_path / "rows.jsonl")


def load(path: str, **fields: Any) -> SourceData:
    return Text(path=path, **fields).load(seed=0)


def pairs(data: SourceData) -> list[tuple[list[int], list[int]]]:
    """Return the inputs and targets of each example, without padding."""
    inputs, targets = data.train.inputs, data.train.targets
    assert isinstance(inputs, Ragged)
    assert isinstance(targets, Ragged)
    sizes = inputs.lengths.tolist()
    return [(inputs[i][:n].tolist(), targets[i][:n].tolist()) for i, n in enumerate(sizes)]


def bytes_of(text: str) -> list[int]:
    return list(text.encode())


def test_a_position_predicts_the_token_that_follows(jsonl: str) -> None:
    data = load(jsonl, text="{q}{a}")
    for (inputs, targets), row in zip(pairs(data), ROWS, strict=True):
        document = [*bytes_of(f"{row['q']}{row['a']}"), END]
        assert inputs == document[:-1]
        assert targets == document[1:]
    assert data.notes == ()


def test_a_long_document_is_cut_and_each_token_is_predicted_once(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("abcdefgh")
    data = load(str(tmp_path / "one.txt"), max_tokens=3)
    assert [bytes(inputs).decode() for inputs, _ in pairs(data)] == ["abc", "def", "gh"]
    assert [t for _, targets in pairs(data) for t in targets] == [*b"bcdefgh", END]


def test_documents_of_a_client_are_packed(jsonl: str) -> None:
    data = load(jsonl, text="{a}{q}", client="who", pack=True, max_tokens=8)
    ann = [*b"sohow?", END, *b"why?", END]
    bob = [*b"maybe, maybe", END]
    assert pairs(data) == [
        (ann[:8], ann[1:9]),
        (ann[8:11], ann[9:]),
        (bob[:8], bob[1:9]),
        (bob[8:12], bob[9:]),
    ]
    assert data.columns["client"].tolist() == ["ann", "ann", "bob", "bob"]


def test_without_clients_all_documents_are_packed(jsonl: str) -> None:
    (inputs, _), *rest = pairs(load(jsonl, text="{id}", pack=True))
    assert inputs == [*b"1", END, *b"2", END, *b"3"]
    assert rest == []


def test_only_the_response_and_the_end_count(jsonl: str) -> None:
    data = load(jsonl, prompt="{q} ", response="{a}")
    for (inputs, targets), row in zip(pairs(data), ROWS, strict=True):
        prompt, response = bytes_of(f"{row['q']} "), bytes_of(str(row["a"]))
        assert inputs == [*prompt, *response]
        assert targets == [-100] * (len(prompt) - 1) + [*response, END]


def test_a_response_without_a_prompt_counts_but_for_its_first_token(jsonl: str) -> None:
    assert pairs(load(jsonl, prompt="", response="{a}"))[0] == ([*b"so"], [*b"o", END])


def test_a_long_response_loses_its_end_and_a_lost_one_its_example(jsonl: str) -> None:
    data = load(jsonl, prompt="{q}", response="{a}", client="who", max_tokens=3)
    assert pairs(data) == [([*b"may"], [*b"ayb"])]
    assert data.columns["client"].tolist() == ["bob"]
    (note,) = data.notes
    assert note == (
        f"2 of 3 rows of {jsonl} have no token of the response within max_tokens (3) and are left "
        "out, and with them clients: ann"
    )
    with pytest.raises(DataError, match="all rows have no token of the response within max_tokens"):
        load(jsonl, prompt="{q}{q}{id}{id}", response="{a}", max_tokens=1)


def test_choices_are_templates_or_a_list_of_the_row(tmp_path: Path) -> None:
    rows = [
        {"q": "why?", "a": "so", "options": ["so", "no"]},
        {"q": "how?", "a": "1", "options": ["1", "22", "333"]},
        {"q": "how long?", "a": "1", "options": ["1", "22"]},
    ]
    path = write(tmp_path / "rows.jsonl", rows)
    fields = {"prompt": "{q}", "response": "{a}", "max_tokens": 9}
    data = load(path, choices="{options}", **fields)
    assert data.notes == (
        f"1 of 3 rows of {path} have a choice that does not fit within max_tokens (9) and are left "
        "out",
    )
    read = [choice[np.arange(2)] for choice in data.train.choices]
    found = [[[t for t in row if t != -100] for row in choice.tolist()] for choice in read]
    assert found == [[[*b"so"], [*b"1"]], [[*b"no"], [*b"22"]], [[], [*b"333"]]]
    with pytest.raises(DataError, match=r"line 2: the response '1' is none of the choices \['so"):
        load(path, choices=("so", "{q}"), **fields)
    with pytest.raises(DataError, match=r"line 1: the choices are \['so'\]; two or more"):
        load(path, choices="{a}", **fields)
    with pytest.raises(DataError, match="line 1: fields 'options' and 'more' are both lists"):
        load(
            write(tmp_path / "more.jsonl", [{**rows[0], "more": []}]),
            choices="{options}{more}",
            **fields,
        )
    with pytest.raises(ConfigError, match="choices are those of a response"):
        load(path, choices="{options}", text="{q}")


def test_empty_documents_are_left_out(jsonl: str) -> None:
    data = load(jsonl, text="{a}")
    assert len(data.train) == 2
    assert data.notes == (f"1 of 3 rows of {jsonl} are empty and are left out",)
    with pytest.raises(DataError, match="there is no text in any row"):
        load(jsonl, text="")


def test_classes_come_with_a_mask(jsonl: str) -> None:
    data = load(jsonl, text="{a}", label="kind", columns=("id",), max_tokens=10)
    assert isinstance(data.train.inputs, dict)
    rows = np.arange(2)
    ids, mask = (data.train.inputs[name][rows] for name in ("input_ids", "attention_mask"))
    assert ids[0].tolist() == [*b"so"] + [END] * 8
    assert ids[1].tolist() == [*b"maybe, may"]
    assert mask.sum(axis=1).tolist() == [2, 10]
    assert data.train.targets.tolist() == [1, 0]  # type: ignore[union-attr]
    assert data.class_names == ("bad", "good")
    assert data.columns["id"].tolist() == [1, 2]
    assert data.notes == (f"1 of 3 rows of {jsonl} have no token and are left out",)


def test_all_formats_hold_the_same(tmp_path: Path, jsonl: str) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    with open(tmp_path / "rows.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    expected = pairs(load(jsonl, text="{id}: {q} {a}"))
    for kind in ("json", "parquet", "csv"):
        assert pairs(load(str(tmp_path / f"rows.{kind}"), text="{id}: {q} {a}")) == expected


def test_a_data_set_of_the_library_is_read(tmp_path: Path, jsonl: str) -> None:
    datasets = pytest.importorskip("datasets")
    path = str(tmp_path / "saved")
    datasets.disable_progress_bars()
    datasets.DatasetDict(test=datasets.Dataset.from_list(ROWS)).save_to_disk(path)
    assert pairs(load(path, text="{a}", split="test")) == pairs(load(jsonl, text="{a}"))
    with pytest.raises(DataError, match="nor the name of a data set on the hub"):
        load("https://example.org/rows")


def test_rows_of_the_hub_are_those_of_the_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    states = {None: [{"text": "new"}], "0a1b2c": [{"text": "old"}]}

    def answer(*_: object, revision: str | None, **__: object) -> Any:
        return datasets.Dataset.from_list(states[revision])

    monkeypatch.setattr(datasets, "load_dataset", answer)
    assert pairs(load("someone/data", revision="0a1b2c"))[0][0] == [*b"old"]
    assert pairs(load("someone/data"))[0][0] == [*b"new"]


def test_a_file_has_no_revision(jsonl: str) -> None:
    with pytest.raises(DataError, match=r"revision is 'main', but .* is a file or folder on this"):
        load(jsonl, revision="main")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"test_split": "test"}, "has no split 'test'; name a file as test_path instead"),
        ({"split": "validation"}, "split is 'validation', but .* is a file, which has none"),
        ({"config": "en"}, "config is 'en', but .* is a file, which has none"),
    ],
)
def test_a_file_has_no_splits(jsonl: str, fields: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(jsonl, **fields)


def test_folders_are_clients(tmp_path: Path) -> None:
    for name in ("ann/1.txt", "ann/2.txt", "bob/1.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    data = load(str(tmp_path), client="folder")
    assert [bytes(inputs).decode() for inputs, _ in pairs(data)] == [
        "ann/1.txt",
        "ann/2.txt",
        "bob/1.txt",
    ]
    assert data.columns["client"].tolist() == ["ann", "ann", "bob"]


def test_speakers_of_a_play_are_clients(tmp_path: Path) -> None:
    play = "A PLAY\n\nFRANCISCO.\nWho's there?\n\nBERNARDO. Nay,\nanswer me.\n"
    (tmp_path / "play.txt").write_text(play)
    data = load(str(tmp_path / "play.txt"), speaker=r"([A-Z]+)\. ?", client="speaker")
    spoken = [bytes(inputs).decode() for inputs, _ in pairs(data)]
    assert spoken == ["Who's there?", "Nay,\nanswer me."]
    assert data.columns["client"].tolist() == ["FRANCISCO", "BERNARDO"]


def test_a_test_file_has_the_characters_of_both(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [{"text": "ba"}])
    test = write(tmp_path / "test.jsonl", [{"text": "ca"}])
    data = load(train, tokenizer="characters", test_path=test)
    assert pairs(data) == [([1, 0], [0, 3])]
    assert data.test is not None
    assert data.test.inputs[0][:2].tolist() == [2, 0]  # type: ignore[index,union-attr]
    write(tmp_path / "train.jsonl", [{"text": "x", "label": "a"}])
    write(tmp_path / "test.jsonl", [{"text": "x", "label": "c"}])
    with pytest.raises(DataError, match=r"holds the class 'c'"):
        load(train, label="label", test_path=test)


@pytest.mark.parametrize("marks", [False, True])
def test_a_library_tokenizers_marks_surround_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marks: bool
) -> None:
    pytest.importorskip("tokenizers")
    from tests.unit.data.text.test_tokenizers import word_level

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = word_level(tmp_path, marks=marks)
    rows = write(tmp_path / "rows.jsonl", [{"text": "to be", "more": "not", "label": 0}])
    before = [2] if marks else []
    for _ in range(2):  # the second is from the cache
        (plain,) = pairs(load(rows, tokenizer=path))
        assert plain == ([*before, 4, 5], [*before, 4, 5, 1][1:])
        (asked,) = pairs(load(rows, tokenizer=path, prompt="{text}", response="{more}"))
        assert asked[0] == [*before, 4, 5, 6]
        assert asked[1] == [-100] * (len(before) + 1) + [6, 1]
        data = load(rows, tokenizer=path, label="label", max_tokens=3 if marks else 1)
        assert isinstance(data.train.inputs, dict)
        assert data.train.inputs["input_ids"][0].tolist()[:3] == ([2, 4, 3] if marks else [4])


class Model(Component, kind="a model"):
    name = "model of text"


def test_the_models_tokenizer_needs_a_model_with_a_path(jsonl: str) -> None:
    source = Text(path=jsonl, text="{a}", tokenizer="model")
    with pytest.raises(ConfigError, match="there is no model"):
        source.load(seed=0)
    with pytest.raises(ConfigError, match=r"the model has no path of one; set model\.path"):
        source.for_model(object.__new__(Model))
    assert Text(path=jsonl).for_model(object.__new__(Model)) == Text(path=jsonl)


def test_the_models_own_tokenizer_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    from simfl.models import HuggingFaceModel
    from tests.unit.data.text.test_tokenizers import word_level

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    transformers.PreTrainedTokenizerFast(
        tokenizer_file=word_level(tmp_path, marks=True), eos_token="mark", pad_token="[UNK]"
    ).save_pretrained(tmp_path / "model")
    rows = write(tmp_path / "rows.jsonl", [{"text": "to be", "more": "not a"}])
    source = Text(path=rows, prompt="{text}", response="{more}", tokenizer="model")
    model = HuggingFaceModel(path=str(tmp_path / "model"))
    data = source.for_model(model).load(seed=0)
    assert pairs(data) == [([2, 4, 5, 6, 7], [-100, -100, 6, 7, 8])]
    assert data.encode is not None
    assert data.encode("not") == [6]
    missing = HuggingFaceModel(path=str(tmp_path / "rows.jsonl"))
    with pytest.raises(DataError, match=r"the tokenizer of .* cannot be read") as raised:
        source.for_model(missing).load(seed=0)
    assert "\n" not in str(raised.value)


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"text": "{b}"}, r"line 1: there is no field 'b'. Known: a, id"),
    ({"text": "{q}", "client": "whom"}, "line 1: there is no field 'whom'. Did you mean 'who'"),
    ({"text": "{q}", "client": "a"}, "line 3: field 'a' is empty"),
    ({"speaker": "(x)"}, r"speaker is set, but .* is not .txt"),
]


@pytest.mark.parametrize(("fields", "message"), FAULTS)
def test_bad_fields_are_named_with_their_line(
    jsonl: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load(jsonl, **fields)


BAD_FILES = [
    ("x.jsonl", '{"text": "a"}\n{"text": ', "line 2 cannot be read as JSON"),
    ("x.jsonl", "[1]", r'line 1 is not a record such as {"text": ...}'),
    ("x.jsonl", '{"text": ["a"]}', "line 1: field 'text' is a list; text or a number"),
    ("x.jsonl", '{"text": "\\ud800"}', "half of a surrogate pair"),
    ("x.json", '{"text": "a"}', "is not a list of records"),
    ("x.json", "[" * 100_000, "cannot be read as JSON"),
    ("x.csv", "text\na,b\n", "line 2: the number of cells is not the header's"),
    ("x.csv", 'text\n"a\n', "cannot be read as CSV"),
    ("x.parquet", "no parquet", "cannot be read as Parquet"),
    ("x.txt", "\xff", "is not UTF-8 text"),
    ("x.jsonl", "", "holds no rows"),
    ("x.txt", "", "there is no text in any row"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES)
def test_bad_files_are_refused_in_a_line(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match=message) as raised:
        load(str(tmp_path / name))
    assert "\n" not in str(raised.value)


BAD_CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"text": "{a"}, "expected '}'"),
    ({"text": "{a!r}"}, "braces hold the name of a field, and no more"),
    ({"prompt": "x"}, "prompt and response go together"),
    ({"prompt": "x", "response": "y", "text": "z"}, "do not go with a response"),
    ({"pack": True, "label": "x"}, "pack joins plain documents"),
    ({"tokenizer": "bpe"}, r"tokenizer is 'bpe'; use bytes, characters, model, or the path"),
    ({"end_token": "x"}, "has one of its own"),
    ({"speaker": "(", "client": "speaker"}, "no regular expression"),
    ({"speaker": "x"}, "in parentheses"),
    ({"test_path": "x", "test_split": "y"}, "are two test splits"),
]


@pytest.mark.parametrize(("fields", "message"), BAD_CONFIGS)
def test_fields_that_do_not_fit_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Text(path="x", **fields)
