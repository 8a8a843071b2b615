"""Text, as tokens: plain language modelling, prompts and responses, and classification."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

import numpy as np

from simfl.component import Component, Count
from simfl.data.arrays import as_column, as_targets
from simfl.data.dataset import Array, Examples
from simfl.data.hub import why_untrusted
from simfl.data.source import Source, SourceData
from simfl.data.text.documents import Sequences, answers, blocks, classified
from simfl.data.text.records import Records, is_file_of_text, read_records, refuse_parts
from simfl.data.text.templates import Template, parse_template, render, render_choices
from simfl.data.text.tokenizers import (
    Bytes,
    Characters,
    Tokenizer,
    read_tokenizer,
    tokenizer_of_model,
)
from simfl.errors import ConfigError, DataError, one_line

_NAMES: Final = ("bytes", "characters", "model")


@dataclass(frozen=True)
class Text(Source):
    """Text as tokens: of records in a file, of a folder of .txt files, or of the hub.

    One of three things is learnt. With ``text`` alone, the next token: each document, with an end
    token, is cut into examples of ``max_tokens`` positions. With ``prompt`` and ``response``, the
    tokens of the response and the end: a longer example loses its end. With ``text`` and ``label``,
    a class: a longer text loses its end.

    ``targets[b, t]`` is the token that position t predicts, so that ``inputs`` are a document
    without its last token, and ``targets`` without its first; -100 does not count. To predict
    tokens, a model gets one array of token ids; to predict classes, ``input_ids`` and
    ``attention_mask``. Batches are padded to their longest example, rounded up to a multiple of 8.

    Rows of .txt files have the fields ``text``, ``file``, ``folder``, and ``speaker`` for plays. A
    library's tokens are kept in ``$XDG_CACHE_HOME/simfl/tokens``, by a hash of texts and tokenizer.
    """

    name: ClassVar[str] = "text"
    file_or_name_fields: ClassVar[tuple[str, ...]] = ("path",)
    file_fields: ClassVar[tuple[str, ...]] = ("test_path",)
    json_file_or_name_fields: ClassVar[tuple[str, ...]] = ("tokenizer",)

    path: str
    """A .jsonl, .json, .csv, .parquet or .txt file, a folder, or a data set's name on the hub."""
    text: str | None = None
    """The document, with names of fields in braces. Null: "{text}", unless there is a response."""
    prompt: str | None = None
    """What comes before the response and does not count, likewise."""
    response: str | None = None
    """What is learnt to follow the prompt, likewise."""
    choices: str | tuple[str, ...] | None = None
    """What a row's response could be, for the metric ``multiple-choice``: one template or several;
    one with the name of a list is filled for each of its elements."""
    label: str | None = None
    """The field with a text's class."""
    tokenizer: str = "bytes"
    """``bytes``; ``characters``, those that occur; ``model``, that of ``model.path``; or the path
    of a tokenizer.json."""
    end_token: str | None = None
    """The token that ends a document, of a library's tokenizer. Null: its own."""
    max_tokens: Count = 512
    """The most positions of an example."""
    pack: bool = False
    """Whether a client's documents are joined before they are cut, so that examples are full."""
    client: str | None = None
    """The field with each row's client."""
    columns: tuple[str, ...] = ()
    """Further fields with one value per row, for a partition or ``cluster.groups``."""
    speaker: str | None = None
    """For plays in .txt files: a regular expression at the begin of lines that begin a speech; its
    first group is the speaker. It is not stopped: a repeat of repeats such as ``(\\w+ ?)+:`` may
    take forever on a long line that does not match."""
    split: str = "train"
    """The split of a data set on the hub that is distributed over clients."""
    test_split: str | None = None
    """The split of it to test on; null: none."""
    config: str | None = None
    """The configuration of a data set on the hub; null: its only or default one."""
    test_path: str | None = None
    """A file with the same fields for the test split; null: none."""
    revision: str | None = None
    """The commit, tag or branch of a data set on the hub; null: its newest state."""

    def check(self) -> None:
        """Check what concerns several fields."""
        for name in ("text", "prompt", "response", "choices"):
            _parsed(getattr(self, name), name)
        if (self.prompt is None) != (self.response is None):
            raise ConfigError("text: prompt and response go together; give both, or text")
        if self.response is not None and (self.text is not None or self.label is not None):
            raise ConfigError("text: text and label do not go with a response; remove them")
        if self.choices is not None and self.response is None:
            raise ConfigError("text: choices are those of a response; set prompt and response")
        if self.pack and (self.response is not None or self.label is not None or self.columns):
            raise ConfigError("text: pack joins plain documents; remove response, label or columns")
        if self.test_path is not None and self.test_split is not None:
            raise ConfigError("text: test_path and test_split are two test splits; remove one")
        if self.tokenizer not in _NAMES and not self.tokenizer.endswith(".json"):
            raise ConfigError(
                f"text: tokenizer is {self.tokenizer!r}; use bytes, characters, model, or the path "
                "of a tokenizer.json"
            )
        if self.end_token is not None and self.tokenizer in ("bytes", "characters"):
            raise ConfigError(
                f"text: end_token is {self.end_token!r}, but the tokenizer {self.tokenizer!r} has "
                "one of its own; remove it"
            )
        _check_pattern(self.speaker)

    def refuse_untrusted(self) -> str | None:
        """Return why an untrusted scenario may not have it: what it downloads may change."""
        return None if is_file_of_text(self.path) else why_untrusted(self.path, self.revision)

    def for_model(self, model: Component) -> Source:
        """Return the source with the model's tokenizer, if it is to have that."""
        return TextOfModel(self, model) if self.tokenizer == "model" else self

    def load(self, *, seed: int) -> SourceData:
        """Read the records and make tokens of them.

        Raises:
            DataError: if they cannot be read, or lack a field, or none is left.
            MissingExtraError: if a package that they need is not installed.
        """
        if self.tokenizer == "model":
            raise ConfigError("text: tokenizer is 'model', but there is no model; name another")
        return self.load_with(None)

    def load_with(self, tokenizer: Tokenizer | None) -> SourceData:
        """Do so with a tokenizer; None: the one that ``tokenizer`` names."""
        refuse_parts(self.path, self.split, self.test_split, self.config)
        train = self._read(self.path, self.split)
        test = None
        if self.test_path is not None:
            test = self._read(self.test_path, self.split)
        elif self.test_split is not None:
            test = self._read(self.path, self.test_split)
        parts = [train] if test is None else [train, test]
        tokenizer = tokenizer or self._tokenizer(parts)
        made = self._examples(train, tokenizer)
        if test is None:
            return replace(made, encode=tokenizer.ids_of)
        others = self._examples(test, tokenizer, class_names=made.class_names)
        notes = (*made.notes, *others.notes)
        return replace(
            made,
            test=others.train,
            test_columns=others.columns,
            notes=notes,
            encode=tokenizer.ids_of,
        )

    def _read(self, path: str, split: str) -> _Rows:
        records = read_records(
            path,
            split=split,
            config=self.config,
            revision=self.revision,
            speaker=self.speaker,
        )
        if not len(records):
            raise DataError(f"{path} holds no rows")
        plain = "{text}" if self.text is None else self.text
        templates = [plain] if self.response is None else [self.prompt, self.response]
        rows = range(len(records))
        texts = [
            [render(template, records, row) for row in rows]
            for template in _parsed(templates, "text")
        ]
        return _Rows(records, texts, self._choices(records, texts[-1]))

    def _choices(self, records: Records, responses: Sequence[str]) -> Sequence[Sequence[str]]:
        """Return the choices of each row; none at all if there is no template of them.

        Raises:
            DataError: if a row has fewer than two, or one without text, or another response.
        """
        templates = _parsed(self.choices, "choices")
        found = [render_choices(templates, records, row) for row in range(len(records))]
        if self.choices is None:
            return ()
        for row, (own, response) in enumerate(zip(found, responses, strict=True)):
            if len(own) < 2 or not all(own):
                raise DataError(
                    f"{records.place(row)}: the choices are {one_line(own)}; two or more are "
                    "needed, each with text"
                )
            if response not in own:
                raise DataError(
                    f"{records.place(row)}: the response {one_line(response)!r} is none of the "
                    f"choices {one_line(own)}; write both templates alike"
                )
        return found

    def _tokenizer(self, parts: Sequence[_Rows]) -> Tokenizer:
        if self.tokenizer == "bytes":
            return Bytes()
        if self.tokenizer == "characters":
            return Characters(text for rows in parts for texts in rows.texts for text in texts)
        return read_tokenizer(self.tokenizer, end=self.end_token)

    def _examples(
        self, rows: _Rows, tokenizer: Tokenizer, *, class_names: tuple[str, ...] = ()
    ) -> SourceData:
        columns = {name: rows.records.column(name) for name in self.columns}
        if self.client is not None:
            columns["client"] = rows.records.column(self.client)
        arrays = {
            name: as_column(values, what=f"{rows.records.path}: field {name!r}")
            for name, values in columns.items()
        }
        if self.label is not None:
            return self._of_classes(rows, tokenizer, arrays, class_names)
        if self.response is not None:
            prompts, responses = rows.texts
            sequences = answers(
                prompts, responses, tokenizer, max_tokens=self.max_tokens, choices=rows.choices
            )
            notes = _note(rows, arrays, sequences.documents, self._why_left_out())
        else:
            sequences, notes = self._of_documents(rows, tokenizer, arrays)
        kept = sequences.documents
        if not len(kept):
            raise DataError(f"{rows.records.path}: {self._why_none()}")
        return SourceData(
            Examples(sequences.inputs, sequences.targets, choices=sequences.choices),
            columns={name: array[kept] for name, array in arrays.items()},
            notes=notes,
        )

    def _of_documents(
        self, rows: _Rows, tokenizer: Tokenizer, columns: dict[str, Array]
    ) -> tuple[Sequences, tuple[str, ...]]:
        (texts,) = rows.texts
        kept = np.array([row for row, text in enumerate(texts) if text], np.int64)
        groups = None
        if self.pack:
            clients = columns["client"][kept] if "client" in columns else np.zeros(len(kept))
            codes = np.unique(clients, return_inverse=True)[1]
            order = np.argsort(codes, kind="stable")
            kept, groups = kept[order], codes[order]
        found = blocks(
            [texts[row] for row in kept], tokenizer, max_tokens=self.max_tokens, groups=groups
        )
        notes = _note(rows, columns, kept, "are empty")
        return Sequences(found.inputs, found.targets, kept[found.documents]), notes

    def _of_classes(
        self,
        rows: _Rows,
        tokenizer: Tokenizer,
        columns: dict[str, Array],
        class_names: tuple[str, ...],
    ) -> SourceData:
        assert self.label is not None
        what = f"{rows.records.path}: field {self.label!r}"
        labels = rows.records.column(self.label)
        targets, names = as_targets(labels, what=what, class_names=class_names)
        inputs, kept = classified(rows.texts[0], tokenizer, max_tokens=self.max_tokens)
        if not len(kept):
            raise DataError(f"{rows.records.path}: {self._why_none()}")
        return SourceData(
            Examples({**inputs}, np.asarray(targets)[kept]),
            columns={name: array[kept] for name, array in columns.items()},
            class_names=names,
            notes=_note(rows, columns, kept, "have no token"),
        )

    def _why_left_out(self) -> str:
        what = "no token of the response" if self.choices is None else "a choice that does not fit"
        return f"have {what} within max_tokens ({self.max_tokens})"

    def _why_none(self) -> str:
        if self.response is not None:
            return f"all rows {self._why_left_out()}; raise data.max_tokens"
        return "there is no text in any row"


@dataclass(frozen=True)
class TextOfModel(Source):
    """Text with the tokenizer of a model."""

    source: Text
    model: Component

    def check(self) -> None:
        """Refuse models that have no tokenizer."""
        if not isinstance(getattr(self.model, "path", None), str) or self.model.name == "python":
            raise ConfigError(
                "data.tokenizer is 'model', but the model has no path of one; set model.path, or "
                "use bytes, characters or the path of a tokenizer.json"
            )

    def load(self, *, seed: int) -> SourceData:
        """Read the records, and make tokens of them."""
        path: Any = getattr(self.model, "path", None)
        revision: Any = getattr(self.model, "revision", None)
        tokenizer = tokenizer_of_model(path, revision, end=self.source.end_token)
        return self.source.load_with(tokenizer)


@dataclass(frozen=True)
class _Rows:
    """Records, and what each template makes of them."""

    records: Records
    texts: Sequence[Sequence[str]]
    choices: Sequence[Sequence[str]] = ()
    """Those of each row; none at all if the source names none."""


def _parsed(templates: str | Sequence[str | None] | None, name: str) -> list[Template]:
    """Parse the templates of a field, if it has any."""
    each = [templates] if isinstance(templates, str) else templates or ()
    return [parse_template(text, what=f"text: {name}") for text in each if text is not None]


def _note(rows: _Rows, columns: dict[str, Array], kept: Array, why: str) -> tuple[str, ...]:
    """Return a note on the rows that are left out, and the clients that have no others."""
    records = rows.records
    missing = len(records) - len(kept)
    if not missing:
        return ()
    lost = sorted({*columns.get("client", np.zeros(0)).tolist()} - _values(columns, kept))
    clients = f", and with them clients: {', '.join(map(one_line, lost[:5]))}" if lost else ""
    more = ", ..." if len(lost) > 5 else ""
    what = f"{missing} of {len(records)} rows of {records.path}"
    return (f"{what} {why} and are left out{clients}{more}",)


def _values(columns: dict[str, Array], kept: Array) -> set[Any]:
    return {*columns["client"][kept].tolist()} if "client" in columns else set()


def _check_pattern(speaker: str | None) -> None:
    if speaker is None:
        return
    try:
        groups = re.compile(speaker).groups
    except re.error as error:
        raise ConfigError(f"text: speaker is {speaker!r}, no regular expression: {error}") from None
    if groups < 1:
        raise ConfigError(
            f"text: speaker is {speaker!r}; put what is the speaker's name in parentheses"
        )
