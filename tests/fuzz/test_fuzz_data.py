"""Data files: whatever their contents, they are read exactly, or refused with one line."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simfl.data import (
    CsvFile,
    FederatedDataset,
    HuggingFace,
    Leaf,
    Natural,
    NpyFolder,
    NpzFile,
    ParquetFile,
    build_dataset,
)
from simfl.data.source import Source
from simfl.errors import SimflError

from .fuzzing import altered, fuzzed, require_clear

ROWS: Final = 12
INPUTS: Final = np.linspace(-1, 1, ROWS * 3, dtype=np.float32).reshape(ROWS, 3)
TARGETS: Final = np.arange(ROWS) % 3
CLIENTS: Final = np.arange(ROWS) % 4


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, inputs=INPUTS, targets=TARGETS, client=CLIENTS, **arrays)
    return file.getvalue()


NPZ: Final = npz(test_inputs=INPUTS[:4], test_targets=TARGETS[:4], class_names=["a", "b", "c"])

CSV: Final = "\n".join(
    [
        "a,b,c,label,client",
        *(
            f"{x[0]},{x[1]},{x[2]},{y},c{c}"
            for x, y, c in zip(INPUTS, TARGETS, CLIENTS, strict=True)
        ),
    ]
).encode()
CSV_WORDS: Final = (
    *(b",", b"\n", b"\r", b'"', b"nan", b"inf", b"1e999", b"9" * 5000, b"-", b"\0", b"\xff", b""),
    *(b"0x1", b"1_0", b"\xef\xbb\xbf", "٣".encode(), "\u2028".encode(), b"x" * 200_000, b"True"),
    *(b"99999999999999999999", b"-9223372036854775809", b"a,b,c,label,client\n", b"\x1b[2J"),
)


def read(source: Source) -> FederatedDataset | None:
    """Build a data set; None where it was refused, and that clearly."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return build_dataset(source, Natural(), seed=0, test_fraction=0)
        except SimflError as error:
            require_clear(error)
            return None


def require_sound(dataset: FederatedDataset) -> None:
    """See that training finds finite numbers, and each row with one client."""
    inputs = dataset.train.inputs
    assert isinstance(inputs, np.ndarray)
    assert inputs.dtype.kind in "biuf"
    assert len(inputs) == len(dataset.train.targets) > 0
    assert np.isfinite(inputs).all()
    assert sorted(dataset.rows.tolist()) == list(range(len(inputs)))


@fuzzed(80)
@given(
    altered(NPZ, (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"\xff" * 4, b"\0" * 4, b"../x.npy"))
)
def test_npz_files_are_read_as_they_were_or_refused(folder: Path, data: bytes) -> None:
    """Each array has a checksum in the file: what is read of it is what was written."""
    path = folder / "data.npz"
    path.write_bytes(data)
    dataset = read(NpzFile(str(path)))
    if dataset is not None:
        require_sound(dataset)
        assert np.array_equal(dataset.train.inputs, INPUTS)
        assert np.array_equal(dataset.train.targets, TARGETS)


HEADERS: Final = (
    *(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (12, 3), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (12,), }",
    ),
    *(
        "{'descr': '<f4', 'fortran_order': True, 'shape': (12, 3), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3), }",
    ),
    *(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (10**18,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }",
    ),
    *(
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (12,), }",
        "{'descr': '<U3', 'fortran_order': False, 'shape': (12,), }",
    ),
    *(
        "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (12,), }",
        "{'descr': '<c8', 'fortran_order': False, 'shape': (12,), }",
    ),
    *(
        "{'descr': '<f2', 'fortran_order': False, 'shape': (), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (0, 3), }",
    ),
    *(
        "{'descr': '|V4', 'fortran_order': False, 'shape': (12,), }",
        "__import__('os').system('x')",
        "(" * 500,
        "{}",
        "",
    ),
    *(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (12, 3), 'x': 1}",
        "\xff",
        "{'descr': 1, 'fortran_order': 2, 'shape': 3}",
    ),
)


def forged_npy(header: str, body: bytes, *, version: int = 1) -> bytes:
    text = header.encode("latin1", "replace") + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2, "little") + text + body


@fuzzed(80)
@given(
    st.sampled_from(HEADERS),
    st.sampled_from(
        ["inputs", "targets", "client", "class_names", "test_inputs", "other", "a/../b"]
    ),
    st.binary(max_size=200),
    st.sampled_from([1, 2, 3, 9]),
)
def test_forged_arrays_are_read_or_refused(
    folder: Path, header: str, name: str, body: bytes, version: int
) -> None:
    """With checksums that are right: an array that says it is larger than the file, or objects."""
    path = folder / "data.npz"
    with zipfile.ZipFile(io.BytesIO(NPZ)) as given, zipfile.ZipFile(path, "w") as forged:
        for member in given.namelist():
            if member != f"{name}.npy":
                forged.writestr(member, given.read(member))
        forged.writestr(f"{name}.npy", forged_npy(header, body, version=version))
    dataset = read(NpzFile(str(path)))
    if dataset is not None:
        require_sound(dataset)


@fuzzed(80)
@given(altered(CSV, CSV_WORDS))
def test_csv_files_are_read_or_refused(folder: Path, data: bytes) -> None:
    path = folder / "data.csv"
    path.write_bytes(data)
    dataset = read(CsvFile(str(path), target="label"))
    if dataset is not None:
        require_sound(dataset)


RULES: Final = st.fixed_dictionaries(
    {
        "numbers": st.sampled_from(["as-is", "standardize"]),
        "categories": st.sampled_from([None, "one-hot", "index"]),
        "missing": st.sampled_from(["refuse", "leave-out", "mean", "median", "most-frequent"]),
    }
)


def require_sound_tables(dataset: FederatedDataset) -> None:
    """See that all parts of the inputs are finite."""
    inputs = dataset.train.inputs
    parts = inputs.values() if isinstance(inputs, dict) else [inputs]
    assert all(np.isfinite(np.asarray(part)).all() for part in parts)


@fuzzed(40)
@given(altered(CSV, CSV_WORDS), RULES)
def test_tables_are_encoded_or_refused(folder: Path, data: bytes, rules: dict[str, Any]) -> None:
    path = folder / "data.csv"
    path.write_bytes(data)
    dataset = read(CsvFile(str(path), target="label", **rules))
    if dataset is not None:
        require_sound_tables(dataset)


@fuzzed(40)
@given(st.sampled_from(HEADERS), st.binary(max_size=200), st.sampled_from([1, 2, 3, 9]))
def test_folders_of_forged_arrays_are_mapped_or_refused(
    folder: Path, header: str, body: bytes, version: int
) -> None:
    np.save(folder / "targets.npy", TARGETS)
    np.save(folder / "client.npy", CLIENTS)
    (folder / "inputs.npy").write_bytes(forged_npy(header, body, version=version))
    dataset = read(NpyFolder(str(folder)))
    if dataset is not None:
        require_sound(dataset)


LEAF: Final = json.dumps(
    {"users": ["a"], "user_data": {"a": {"x": INPUTS.tolist(), "y": TARGETS.tolist()}}}
).encode()


@fuzzed(40)
@given(altered(LEAF, (b"\0", b"null", b"[]", b"{}", b"1e999", b"NaN", b'"ab"', b"9" * 5000)))
def test_files_of_leaf_are_read_or_refused(folder: Path, data: bytes) -> None:
    (folder / "data.json").write_bytes(data)
    dataset = read(Leaf(str(folder / "data.json")))
    if dataset is not None:
        require_sound(dataset)


def parquet() -> bytes:
    file = io.BytesIO()
    table = pyarrow.table(
        {
            "x": INPUTS.tolist(),
            "z": INPUTS[:, 0],
            "label": TARGETS,
            "client": [f"c{c}" for c in CLIENTS],
        }
    )
    pyarrow.parquet.write_table(table, file, write_page_checksum=True)
    return file.getvalue()


PARQUET: Final = parquet()


@fuzzed(40)
@given(altered(PARQUET, (b"\0", b"\xff" * 4, b"PAR1", b"c1")), RULES)
def test_parquet_files_are_encoded_or_refused(
    folder: Path, data: bytes, rules: dict[str, Any]
) -> None:
    path = folder / "data.parquet"
    path.write_bytes(data)
    dataset = read(ParquetFile(str(path), target="label", client="client", **rules))
    if dataset is not None:
        require_sound_tables(dataset)


LINES: Final = "".join(
    json.dumps({"x": x.tolist(), "label": int(y), "client": int(c)}) + "\n"
    for x, y, c in zip(INPUTS, TARGETS, CLIENTS, strict=True)
).encode()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A place of our own for what the library makes of the files."""
    datasets = pytest.importorskip("datasets")
    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()
    patch.undo()


@fuzzed(10)
@given(st.sampled_from([("parquet", PARQUET), ("jsonl", LINES)]), st.data())
def test_files_of_hugging_face_are_read_or_refused(
    folder: Path, cache: None, kind: tuple[str, bytes], data: st.DataObject
) -> None:
    suffix, content = kind
    path = folder / f"data.{suffix}"
    path.write_bytes(
        data.draw(altered(content, (b"\0", b"null", b"[]", b"{}\n", b"1e999", b"\xff")))
    )
    source = HuggingFace(str(path), inputs="x", client="client")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = build_dataset(source, Natural(), seed=0)
    except SimflError as error:
        require_clear(error)
        return
    require_sound(dataset)
