"""A run's folder: reading it, reporting on it and going on with it, whatever is in its files."""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import simfl
from simfl.cli.main import app
from simfl.errors import InputError
from simfl.record import RoundRecord
from simfl.report.reading import Run, read_run

from .fuzzing import NASTY, altered, altered_tree, fuzzed, require_clear

pytestmark = pytest.mark.usefixtures("only_our_components")

SCENARIO = {
    "rounds": 5,
    "data": {"source": "synthetic", "clients": 4, "features": 3, "classes": 2, "max_examples": 60},
    "model": {"kind": "logistic"},
    "client": {"per_round": 2, "optimizer": {"lrate": 0.05}},
    "evaluation": {"clients_every": 2},
    "checkpoint": {"every": 2},
}
READ = (
    *("scenario.yaml", "metrics.jsonl", "summary.json", "versions.json", "run.json"),
    *("provenance.json", "clients.parquet", "evaluations.parquet"),
)
WORDS = (
    *(
        b"{}\n",
        b"[]\n",
        b"null\n",
        b'{"round": 1}\n',
        b'{"round": 3, "loss": NaN}\n',
        b"NaN",
        b"1e999",
    ),
    *(b'{"round": 99999999999999999999}\n', b'{"round": -1}\n', b"\n", b"\r", b"\0", b"\xff", b","),
    *(
        b"Infinity",
        b"-",
        b'"',
        b"{" * 2000,
        b"[" * 2000,
        b"9" * 5000,
        b"\\ud800",
        b"true",
        b"\x1b[2J",
    ),
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is done, whose tables are files and not folders."""
    out = tmp_path_factory.mktemp("original") / "run"
    simfl.run(SCENARIO, out=out, backend="inline")
    return out


@pytest.fixture(scope="module")
def records(original: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (original / "metrics.jsonl").read_text().splitlines()]


def copied(original: Path, folder: Path) -> Path:
    copy = folder / "run"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(original, copy)
    return copy


def files_of(run: Path, name: str) -> list[Path]:
    path = run / name
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def alter(data: st.DataObject, run: Path) -> None:
    """Alter one or two of the files that others read."""
    for name in data.draw(st.lists(st.sampled_from(READ), min_size=1, max_size=2, unique=True)):
        path = data.draw(st.sampled_from(files_of(run, name)))
        if path.suffix == ".json" and data.draw(st.booleans()):
            tree = data.draw(altered_tree(json.loads(path.read_bytes()), NASTY))
            path.write_text(json.dumps(tree) if tree != 10**400 else "1" * 401)
        else:
            path.write_bytes(data.draw(altered(path.read_bytes(), WORDS)))


def command(*arguments: str) -> str:
    """Run a command; check that it ends with an exit code and without a traceback."""
    result = CliRunner().invoke(app, [*arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 1, 2)
    assert "Traceback" not in result.output
    return result.output


@fuzzed(10)
@given(st.data())
def test_reading_says_what_is_damaged_and_goes_on(
    folder: Path, original: Path, data: st.DataObject
) -> None:
    run = copied(original, folder)
    alter(data, run)
    output = str(folder / f"out{data.draw(st.sampled_from(['.md', '.md', '.csv', '.html']))}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        command("ls", str(folder))
        command("ls", str(folder), "--json")
        command("compare", str(run), str(original))
        command("compare", str(run), str(original), "--json", "--target", "train_loss=0.1")
        command("report", str(run), str(original), "--out", output, "--trust", "none", "--no-data")


def read(run: Path) -> Run:
    return read_run(run, now=time.time())


@fuzzed(60)
@given(st.data())
def test_rounds_that_are_left_out_are_named(
    folder: Path, original: Path, records: list[dict[str, Any]], data: st.DataObject
) -> None:
    """Cut off, lines gone, moved or twice, and lines of no sense: what stays is what was there."""
    run = copied(original, folder)
    path = run / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    numbers = st.integers(0, len(lines) - 1)
    match data.draw(st.integers(0, 3)):
        case 0:
            whole = b"".join(lines)
            path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
        case 1:
            path.write_bytes(b"".join(data.draw(st.permutations(lines))))
        case 2:
            path.write_bytes(b"".join([*lines, *(lines[i] for i in data.draw(st.lists(numbers)))]))
        case _:
            at = data.draw(numbers)
            noise = data.draw(st.sampled_from([b"x\n", b"\xff\n", b"{\n", b'{"round": null}\n']))
            path.write_bytes(
                b"".join([*lines[:at], noise, *lines[at + data.draw(st.booleans()) :]])
            )
    found = read(run)
    originals = [{k: v for k, v in record.items() if v is not None} for record in records]
    assert all(record in originals for record in found.records)
    is_whole = path.read_bytes().endswith(b"\n") or not path.read_bytes()
    assert len(found.records) == len(records) or found.faults or is_whole


@fuzzed(15)
@given(st.data())
def test_a_resumed_run_has_the_rounds_of_one_that_was_never_stopped(
    folder: Path, original: Path, records: list[dict[str, Any]], data: st.DataObject
) -> None:
    run = copied(original, folder)
    (run / "summary.json").unlink()
    (run / "weights.safetensors").unlink()
    if data.draw(st.booleans()):
        path = run / "metrics.jsonl"
        path.write_bytes(data.draw(altered(path.read_bytes(), WORDS)))
    else:
        alter_all_but_numbers(data, run)
    try:
        result = simfl.resume(run, backend="inline", trust="none")
    except InputError as error:
        require_clear(error)
        return
    shown = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert shown == result.history
    assert [record["round"] for record in shown] == list(range(1, 6))
    assert [RoundRecord.parse(r).reproducible for r in shown] == [
        RoundRecord.parse(r).reproducible for r in records
    ]


def alter_all_but_numbers(data: st.DataObject, run: Path) -> None:
    others = ("clients.parquet", "evaluations.parquet")
    for name in ("versions.json", "provenance.json", "run.json", *others):
        path = data.draw(st.sampled_from(files_of(run, name)))
        if data.draw(st.booleans()):
            path.write_bytes(data.draw(altered(path.read_bytes(), WORDS)))


@fuzzed(10)
@given(st.data())
def test_a_summary_of_any_kind_is_no_reason_for_a_traceback(
    folder: Path, original: Path, data: st.DataObject
) -> None:
    """It distinguishes finished runs from others."""
    run = copied(original, folder)
    path = run / "summary.json"
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(altered(path.read_bytes(), WORDS)))
    else:
        tree = data.draw(altered_tree(json.loads(path.read_bytes()), NASTY))
        path.write_text(json.dumps(tree) if tree != 10**400 else "1" * 401)
    os.utime(path, None)
    command("resume", str(run), "--backend", "inline", "--trust", "none", "--quiet")
