"""A run's folder has one writer, and a second one changes nothing in it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import Any

import pytest

import simfl
from simfl.checkpoint import Lease, lease
from simfl.errors import InputError, LeaseLostError
from simfl.record import RoundRecord
from simfl.regular_files import replacing
from simfl.simulation import RunOptions, open_run, preparing
from simfl.simulation.folder import new_folder
from simfl.simulation.provenance import Provenance
from simfl.states import open_storage


@pytest.fixture
def scenario() -> dict[str, Any]:
    return {
        "rounds": 6,
        "data": {"source": "digits", "partition": {"kind": "iid", "clients": 4}},
        "model": {"kind": "logistic"},
        "client": {"batch_size": 64, "optimizer": {"lrate": 0.1}},
        "checkpoint": {"every": 2},
    }


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def rounds_of(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [RoundRecord.parse(json.loads(line)).reproducible for line in lines]


def take_over(place: Path | str, monkeypatch: pytest.MonkeyPatch) -> Lease:
    """As a process on another machine would, after it has seen no sign for long enough."""
    with monkeypatch.context() as patch:
        patch.setattr(lease, "_machine", lambda: "another machine")
        patch.setattr(lease.time, "sleep", lambda _: None)
        patch.setattr(lease, "LIMIT_S", 0.0)
        return Lease(open_storage(place), notify=lambda _: None)


INLINE = RunOptions("inline")

SECONDS: dict[str, Callable[[dict[str, Any], Path], object]] = {
    "run": lambda scenario, out: simfl.run(scenario, out, "inline"),
    "run --resume auto": lambda scenario, out: simfl.run(scenario, out, "inline", resume="auto"),
    "resume": lambda _, out: simfl.resume(out, "inline"),
}


@pytest.mark.parametrize("second", list(SECONDS))
def test_a_second_writer_is_refused_and_the_first_continues_undisturbed(
    second: str, scenario: dict[str, Any], tmp_path: Path
) -> None:
    simfl.run(scenario, out=tmp_path / "alone", backend="inline")
    out = tmp_path / "out"
    loaded = simfl.load_scenario(scenario)
    with open_run(loaded, out, INLINE) as run:
        first = run.rounds()
        for _ in range(3):
            next(first)
        before = files(out)
        refusal = rf"{out} (is being written by process {os.getpid()} on |holds a run already)"
        with pytest.raises(InputError, match=refusal):
            SECONDS[second](scenario, out)
        assert files(out) == before
        assert len(list(first)) == 3
    assert rounds_of(out) == rounds_of(tmp_path / "alone")
    assert not (out / "owner").exists()


def test_a_run_holds_its_folder_before_it_writes(scenario: dict[str, Any], tmp_path: Path) -> None:
    with (
        Lease(open_storage(tmp_path / "out"), notify=print),
        pytest.raises(InputError, match="is being written by process"),
    ):
        simfl.run(scenario, out=tmp_path / "out", backend="inline")


@pytest.mark.parametrize("place", ["{tmp}/place", "memory://one-writer/place"])
def test_a_separate_checkpoint_location_has_one_writer_too(
    place: str, scenario: dict[str, Any], tmp_path: Path
) -> None:
    scenario["checkpoint"]["location"] = place.format(tmp=tmp_path)
    with open_run(simfl.load_scenario(scenario), tmp_path / "a", INLINE) as run:
        first = run.rounds()
        next(first)
        with pytest.raises(InputError, match="place is being written by process"):
            simfl.run(scenario, out=tmp_path / "b", backend="inline", resume="auto")
        assert not files(tmp_path / "b")
        list(first)


def test_a_run_whose_folder_was_taken_over_ends_without_writing(
    scenario: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does that was frozen, and then wakes."""
    out = tmp_path / "out"
    with ExitStack() as held:
        held.enter_context(pytest.raises(LeaseLostError, match="was taken over"))
        frozen = held.enter_context(open_run(simfl.load_scenario(scenario), out, INLINE)).rounds()
        for _ in range(3):
            next(frozen)
        other = take_over(out, monkeypatch)
        before = files(out)
        next(frozen)
    assert files(out) == before
    other.release()
    simfl.run(scenario, out=tmp_path / "alone", backend="inline")
    simfl.resume(out, backend="inline")
    assert rounds_of(out) == rounds_of(tmp_path / "alone")


def test_a_run_whose_checkpoints_were_taken_over_saves_no_more(
    scenario: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    scenario["checkpoint"]["location"] = str(place)
    with ExitStack() as held:
        held.enter_context(pytest.raises(LeaseLostError, match="place was taken over"))
        run = held.enter_context(open_run(simfl.load_scenario(scenario), tmp_path / "out", INLINE))
        frozen = run.rounds()
        for _ in range(2):
            next(frozen)
        take_over(place, monkeypatch)
        before = files(place)
        list(frozen)
    assert files(place) == before


def test_interrupted_and_failed_runs_release_their_folders(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_one_round(simfl.load_scenario(scenario), out)
    assert not (out / "owner").exists()
    with pytest.raises(InputError, match="holds a run of another scenario"):
        simfl.run(scenario | {"seed": 9}, out=out, backend="inline", resume="auto")
    assert not (out / "owner").exists()


def run_one_round(scenario: simfl.Scenario, out: Path) -> None:
    with open_run(scenario, out, INLINE) as run:
        next(run.rounds())
        raise KeyboardInterrupt


def test_runs_that_start_in_the_same_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.strftime", lambda *_: "now")
    made = [new_folder(tmp_path / "runs", "run") for _ in range(3)]
    assert [path.name for path in made] == ["run-now", "run-now-2", "run-now-3"]
    assert all(path.is_dir() for path in made)


def test_a_resumed_run_removes_its_summary_and_unfinished_files(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    simfl.run(scenario | {"rounds": 2}, out=out, backend="inline")
    (out / ".summary.json.0123abcd.unfinished").write_text("{")
    with open_run(simfl.load_scenario(scenario), out, INLINE) as run:
        rounds = run.rounds()
        next(rounds)
        assert not (out / "summary.json").exists()
        list(rounds)
    assert (out / "summary.json").exists()
    assert not list(out.glob(".*"))


def test_the_start_of_a_run_leaves_what_is_being_written(
    scenario: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, has_begun, is_running = tmp_path / "out", Event(), Event()
    write = preparing.write_provenance

    def write_slowly(folder: Path, provenance: Provenance) -> None:
        with replacing(folder / "slow.txt"):
            has_begun.set()
            assert is_running.wait(60)
        write(folder, provenance)

    monkeypatch.setattr(preparing, "write_provenance", write_slowly)
    with open_run(simfl.load_scenario(scenario), out, INLINE) as run:
        assert has_begun.wait(60)
        next(run.rounds())
        is_running.set()
    assert (out / "slow.txt").exists()
    assert "data" in json.loads((out / "provenance.json").read_text())


def test_all_files_of_a_run_have_the_permissions_of_new_files(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    simfl.run(scenario, out=out, backend="inline")
    (tmp_path / "new").touch()
    modes = {path.stat().st_mode for path in out.rglob("*") if path.is_file()}
    assert modes == {(tmp_path / "new").stat().st_mode}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "the folder's name is empty; give one, or '.' for the current folder"),
        ("a" * 300, r"a{80}\.\.\. cannot be a folder: File name too long"),
        ("b/" * 3000, r"\.\.\. cannot be a folder: File name too long"),
        (
            "~nobody-of-that-name/a",
            "~nobody-of-that-name/a cannot be a folder: Could not determine",
        ),
        ("a\0b", "cannot be a folder: embedded null byte|contains a NUL character"),
    ],
)
def test_an_impossible_folder_is_refused_in_one_line(
    name: str, said: str, scenario: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for auto in ("never", "auto"):
        with pytest.raises(InputError, match=said):
            simfl.run(scenario, out=name, backend="inline", resume=auto)
    with pytest.raises(InputError, match=said):
        simfl.run(scenario | {"output": {"dir": name}}, backend="inline")
    with pytest.raises(InputError, match=said):
        simfl.resume(name, backend="inline")
    assert not list(tmp_path.iterdir())


def test_the_home_folder_can_be_written_as_in_a_shell(
    scenario: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    simfl.run(scenario | {"rounds": 1}, out="~/out", backend="inline")
    assert (tmp_path / "out" / "summary.json").exists()


@pytest.mark.parametrize("how", ["resume", "run"])
def test_a_run_that_begins_again_says_where_its_numbers_come_from(
    how: str, tmp_path: Path, scenario: dict[str, Any]
) -> None:
    """It was killed before it had written that."""
    scenario |= {"rounds": 1, "checkpoint": {"every": 0}}
    out = simfl.run(scenario, backend="inline", out=tmp_path / "out").out
    expected = json.loads((out / "provenance.json").read_text())
    for name in ("provenance.json", "summary.json", "metrics.jsonl", "weights.safetensors"):
        (out / name).unlink()
    if how == "resume":
        simfl.resume(out, backend="inline")
    else:
        simfl.run(scenario, backend="inline", out=out, resume="auto")
    assert json.loads((out / "provenance.json").read_text()) == expected
