"""Splits of data sets of the Hugging Face hub, or on disk in its library's formats."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from simfl.errors import DataError, SimflError, did_you_mean, import_extra, one_line

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_FORMATS = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
}


def why_untrusted(path: str, revision: str | None) -> str | None:
    """Return why an untrusted scenario may not name a data set; None: it may.

    Args:
        path: a file, a folder, or a name on the hub, whose data may change without a revision.
        revision: of a data set on the hub.
    """
    if revision is not None or os.path.exists(path):
        return None
    return (
        f"names {one_line(path)!r} on the hub without revision, so that anything may be "
        "downloaded, and trust is 'none'; set revision to a commit, or trust the scenario"
    )


def read_split(path: str, split: str, config: str | None, revision: str | None = None) -> Any:
    """Read a split of a data set.

    Args:
        path: a name on the hub, a folder, or a file of the formats below.
        split: its name.
        config: of a data set on the hub; None: its only or default one.
        revision: of a data set on the hub; None: the newest.

    Raises:
        MissingExtraError: if the package datasets is not installed.
        DataError: if it cannot be read.
    """
    refuse_revision(path, revision)
    datasets = import_extra("datasets", what="a data set of the hub", extra="hf")
    # Before version 4 the library could run code of the data set's author, and asked for it.
    datasets.config.HF_DATASETS_TRUST_REMOTE_CODE = False
    try:
        with without_references(), without_bars():
            return _read(datasets, path, split, config, revision)
    except SimflError:
        raise
    except Exception as error:
        # The library raises exceptions of many packages when data cannot be read.
        reason = one_line(str(error).partition("\n")[0])
        raise DataError(f"{path}, split {split!r}, cannot be read: {reason}") from error


def refuse_revision(path: str, revision: str | None) -> None:
    """Refuse a revision of what is not on the hub.

    Raises:
        DataError: if the path is that of a file or folder.
    """
    if revision is not None and os.path.exists(path):
        raise DataError(
            f"revision is {revision!r}, but {path} is a file or folder on this machine; remove it"
        )


def _read(datasets: Any, name: str, split: str, config: str | None, revision: str | None) -> Any:
    path = Path(name)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _split_of(datasets.load_from_disk(name), split, path=name)
    if path.is_file():
        kind = _FORMATS.get(path.suffix.lower())
        if kind is None:
            known = ", ".join(_FORMATS)
            raise DataError(f"{path}: {path.suffix!r} is not a format it can be in: {known}")
        return datasets.load_dataset(kind, data_files=name, split=split)
    if not path.is_dir():
        _require_name(name)
    return datasets.load_dataset(name, config, split=split, revision=revision)


def _require_name(name: str) -> None:
    """Refuse names that are not on the hub: URLs, and the library's own readers.

    The latter would read any file in the current folder, pickles included.
    """
    is_reader = name.isidentifier() and find_spec(f"datasets.packaged_modules.{name}")
    if is_reader or not _NAME.fullmatch(name):
        raise DataError(
            f"{one_line(name)} is neither a file, a folder, nor the name of a data set on the hub, "
            "such as ylecun/mnist"
        )


@contextmanager
def without_bars() -> Iterator[None]:
    """Hide the library's own progress bars; downloads from the hub still show theirs."""
    import datasets

    if datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


@contextmanager
def without_references() -> Iterator[None]:
    """Make fsspec refuse reference file systems in this block.

    Their templates can run code, and a data set's README or image paths may name one.
    """
    import fsspec  # type: ignore[import-untyped]

    class Refused(fsspec.AbstractFileSystem):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise ValueError("it names an fsspec reference file system, which could run code")

    previous = fsspec.get_filesystem_class("reference")
    fsspec.register_implementation("reference", Refused, clobber=True)
    try:
        yield
    finally:
        fsspec.register_implementation("reference", previous, clobber=True)


def _split_of(data: Any, split: str, *, path: str) -> Any:
    if isinstance(data, dict):
        if split not in data:
            raise DataError(f"{path} has no split {split!r}. {did_you_mean(split, data)}")
        return data[split]
    if split != "train":
        raise DataError(
            f"{path} is one data set without splits, so there is no {split!r}; save a DatasetDict "
            "to have several"
        )
    return data
