"""Records: rows of files with text, as dicts of their fields."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from simfl.data.hub import read_split, refuse_revision
from simfl.data.source import file_fault
from simfl.errors import DataError, did_you_mean, one_line
from simfl.regular_files import open_regular

_TABLES: Final = (".jsonl", ".json", ".csv", ".parquet")


@dataclass(frozen=True)
class Records:
    """Rows of a file, a folder or a data set of the hub."""

    path: str
    rows: Sequence[dict[str, Any]]
    places: Sequence[int] | None = None
    """The line of each row; None: rows are counted from 0."""

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, row: int) -> str:
        """Return where a row is, for errors."""
        return f"{self.path}, {'row' if self.places is None else 'line'} {self._number(row)}"

    def _number(self, row: int) -> int:
        return row if self.places is None else self.places[row]

    def get(self, row: int, name: str) -> Any:
        """Return the value of a field.

        Raises:
            DataError: if the row does not have it.
        """
        fields = self.rows[row]
        if name not in fields:
            hint = did_you_mean(name, [str(field) for field in fields])
            raise DataError(f"{self.place(row)}: there is no field {name!r}. {hint}")
        return fields[name]

    def column(self, name: str) -> list[Any]:
        """Return the values of a field, one of each row.

        Raises:
            DataError: if a row does not have it, or it is empty or not plain text or a number.
        """
        values = [self.get(row, name) for row in range(len(self))]
        for row, value in enumerate(values):
            if not isinstance(value, str | int | float) or value == "":
                raise DataError(
                    f"{self.place(row)}: field {name!r} is {one_line(value) or 'empty'}; "
                    "text or a number is needed"
                )
        are_numbers = all(not isinstance(value, str) for value in values)
        return values if are_numbers else [str(value) for value in values]


def is_file_of_text(path: str) -> bool:
    """Return whether a path ends as a file of text does, and so is no name on the hub."""
    return Path(path).suffix.lower() in (*_TABLES, ".txt")


def refuse_parts(path: str, split: str, test_split: str | None, config: str | None) -> None:
    """Refuse splits and a configuration of a file, which has none.

    Raises:
        DataError: if one is named.
    """
    if not Path(path).is_file():
        return
    if test_split is not None:
        raise DataError(f"{path} has no split {test_split!r}; name a file as test_path instead")
    if split != "train" or config is not None:
        what = f"config is {config!r}" if split == "train" else f"split is {split!r}"
        raise DataError(f"{what}, but {path} is a file, which has none; remove it")


def read_records(
    path: str,
    *,
    split: str = "train",
    config: str | None = None,
    revision: str | None = None,
    speaker: str | None = None,
) -> Records:
    """Read a file, a folder of .txt files, or a split of a data set on the hub or on disk.

    Rows of .txt files have ``text``, ``file`` (its name without ``.txt``) and ``folder`` (the one
    that it is in, or "."); with a pattern, one row for each speech, and ``speaker``.

    Args:
        path: the file or folder, or the name on the hub.
        split: of a data set on the hub.
        config: of a data set on the hub.
        revision: of a data set on the hub.
        speaker: a regular expression; lines that match begin a speech of the first group's.

    Raises:
        DataError: if there is no such file, or it cannot be read.
        MissingExtraError: if the package datasets is needed and not installed.
    """
    refuse_revision(path, revision)
    place = Path(path)
    texts = sorted(place.rglob("*.txt")) if place.is_dir() else []
    if texts or place.suffix.lower() == ".txt":
        return Records(path, list(_texts(place, texts or [place], speaker)))
    if speaker is not None:
        raise DataError(f"data.source.speaker is set, but {path} is not .txt; use client instead")
    if place.suffix.lower() in _TABLES and not place.is_dir():
        return _explained(path, _READERS[place.suffix.lower()])
    return Records(path, read_split(path, split, config, revision).to_list())


def _texts(root: Path, files: Sequence[Path], speaker: str | None) -> Iterator[dict[str, Any]]:
    base = root if root.is_dir() else root.parent
    for file in files:
        about = {
            "file": file.stem,
            "folder": file.parent.relative_to(base).as_posix(),
        }
        text = _decoded(str(file))
        if speaker is None:
            yield {"text": text, **about}
        else:
            for name, speech in _speeches(text, re.compile(speaker)):
                yield {"text": speech, "speaker": name, **about}


def _speeches(text: str, pattern: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    """Iterate over speakers and what they say; what comes before the first is left out."""
    speaker, lines = "", list[str]()
    for line in text.splitlines():
        found = pattern.match(line)
        if found is None:
            lines.append(line)
            continue
        if speaker:
            yield speaker, "\n".join(lines).strip()
        speaker, lines = found.group(1), [line[found.end() :]]
    if speaker:
        yield speaker, "\n".join(lines).strip()


def _explained(path: str, read: Callable[[str], Records]) -> Records:
    try:
        return read(path)
    except OSError as error:
        raise DataError(file_fault(path, error)) from error


def _decoded(path: str) -> str:
    try:
        with open_regular(path) as file:
            return file.read().decode("utf-8-sig")
    except OSError as error:
        raise DataError(file_fault(path, error)) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error


def _read_jsonl(path: str) -> Records:
    rows, places = [], []
    # Not splitlines(), which also cuts at characters that JSON allows within text.
    for number, line in enumerate(_decoded(path).split("\n"), start=1):
        if line.strip():
            rows.append(_record(_parsed(line, f"{path}, line {number}"), f"{path}, line {number}"))
            places.append(number)
    return Records(path, rows, places)


def _read_json(path: str) -> Records:
    rows = _parsed(_decoded(path), path)
    if not isinstance(rows, list):
        raise DataError(f"{path} is not a list of records; write one record a line, as .jsonl")
    return Records(path, [_record(row, f"{path}, row {index}") for index, row in enumerate(rows)])


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} cannot be read as JSON: {one_line(error)}") from error


def _record(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f'{place} is not a record such as {{"text": ...}}')
    return value


def _read_csv(path: str) -> Records:
    reader = csv.DictReader(io.StringIO(_decoded(path), newline=""), strict=True)
    rows, places = [], []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{path}, line {reader.line_num}: the number of cells is not the header's"
                )
            rows.append(row)
            places.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from error
    return Records(path, rows, places)


def _read_parquet(path: str) -> Records:
    from pyarrow import ArrowException, parquet

    try:
        with open_regular(path) as file:
            return Records(path, parquet.read_table(file).to_pylist())
    except (ArrowException, ValueError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {one_line(error)}") from error


_READERS: Final[dict[str, Callable[[str], Records]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
