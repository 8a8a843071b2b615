"""The run's folder, which holds one run only."""

from __future__ import annotations

import itertools
import json
import os
import platform
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from simfl.errors import CheckpointError, InputError, RunError, printable
from simfl.observers import write_whole
from simfl.record import (
    METRICS_FILE,
    PROVENANCE_FILE,
    RUN_FILE,
    SCENARIO_FILE,
    SUMMARY_FILE,
    VERSIONS_FILE,
    WEIGHTS_FILE,
    RoundRecord,
)
from simfl.regular_files import read_regular, replacing
from simfl.scenario import Objects, Scenario, find_missing, list_own, load_scenario
from simfl.scenario.plain import describe_changes
from simfl.simulation.provenance import Provenance
from simfl.vector import Vector

_MAX_METRICS: Final = 1 << 29
_PACKAGES = ("simfl", "torch", "ray", "numpy", "pydantic", "safetensors", "scikit-learn")


def make_folder(scenario: Scenario, out: str | Path | None) -> Path:
    """Create the folder of a new run, or use an existing one that holds no run.

    Args:
        scenario: resolved.
        out: the folder; None: a new one under ``output.dir``, by name and time.

    Raises:
        InputError: if the folder holds a run, or cannot be written.
    """
    if out is None:
        return new_folder(checked_folder(scenario.output.dir), scenario.name or "run")
    folder = checked_folder(out)
    _require_no_run(folder)
    require_writable(folder)
    return folder


def begin_run(
    folder: Path,
    scenario: Scenario,
    *,
    better: Mapping[str, str],
    units: Mapping[str, str],
    is_loop: bool = False,
) -> None:
    """Write the resolved scenario and ``run.json`` into the folder, and the packages' versions.

    Args:
        folder: a folder that no other process writes to.
        scenario: resolved.
        better: ``max`` or ``min`` for each metric, for readers of the folder; the metric that ranks
            runs comes first.
        units: by the key of a record, of the numbers that have a unit.
        is_loop: whether the rounds are those of a loop of one's own.

    Raises:
        InputError: if the folder already holds a run, or cannot be written.
    """
    _require_no_run(folder)
    with _explained(folder):
        write_whole(folder / VERSIONS_FILE, _versions())
        write_whole(folder / RUN_FILE, _new_run(better, units, is_loop, list_own(scenario)))
        # Last: a folder holds a run if it holds this file.
        write_whole(folder / SCENARIO_FILE, scenario.to_yaml())


def write_provenance(folder: Path, provenance: Provenance) -> None:
    """Write where a run's numbers come from; a disk that is full does not keep it from running."""
    with suppress(OSError):
        write_whole(folder / PROVENANCE_FILE, json.dumps(provenance.about, indent=2) + "\n")
        for name, diff in provenance.diffs.items():
            with replacing(folder / name) as aside:
                aside.write_bytes(diff)


def checked_folder(path: str | Path) -> Path:
    """Return the path of a folder as given, with ``~`` expanded.

    Raises:
        InputError: if no folder can have that name.
    """
    if not str(path):
        raise InputError("the folder's name is empty; give one, or '.' for the current folder")
    shown = f"{str(path)[:80]}..." if len(str(path)) > 80 else str(path)
    try:
        folder = Path(path).expanduser()
        os.stat(folder)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).rstrip(".")
        raise InputError(
            f"{printable(shown)} cannot be a folder: {reason}; choose another"
        ) from None
    return folder


def new_folder(parent: Path, name: str) -> Path:
    """Create a new folder in ``parent``, named by name and time.

    Raises:
        InputError: if it cannot be created.
    """
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in itertools.count(1):
        folder = parent / (stem if number == 1 else f"{stem}-{number}")
        with _explained(folder), suppress(FileExistsError):
            parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
            return folder
    raise AssertionError


def require_writable(folder: Path) -> None:
    """Create a run's folder if it does not exist, and check that it is writable.

    Raises:
        InputError: with the reason.
    """
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def _require_no_run(folder: Path) -> None:
    for name in (METRICS_FILE, SUMMARY_FILE, WEIGHTS_FILE):
        if (folder / name).exists():
            raise InputError(
                f"{folder} holds a run already ({name}); choose another folder, or "
                "continue it with --resume auto (in Python resume='auto')"
            )


@contextmanager
def _explained(place: Path) -> Iterator[None]:
    """Turn any OSError of the block into an InputError with the place and a remedy."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write {place}: {error.strerror}; make it writable, or choose another"
        ) from None


def delete_leftovers(folder: Path) -> None:
    """Delete the unfinished files of a process that was killed; only while no other process writes.

    Raises:
        InputError: if that cannot be done.
    """
    with _explained(folder):
        for path in folder.glob(".*.unfinished"):
            path.unlink(missing_ok=True)


def delete_summary(folder: Path) -> None:
    """Delete the summary of a run that goes on.

    Raises:
        InputError: if that cannot be done.
    """
    with _explained(folder):
        (folder / SUMMARY_FILE).unlink(missing_ok=True)


def holds_run(folder: Path) -> bool:
    """Return whether the folder holds a run."""
    return os.path.exists(folder / SCENARIO_FILE)


def extend_run(folder: Path, scenario: Scenario) -> None:
    """Replace the scenario of the folder's run by one that may have more rounds.

    Raises:
        InputError: if it differs in a way that affects the numbers, or has fewer rounds.
    """
    path = folder / SCENARIO_FILE
    previous = load_scenario(path, trust=scenario.trust)
    if changes := describe_changes(previous.numbers(), scenario.numbers()):
        raise InputError(
            f"{folder} holds a run of another scenario: {changes}; "
            "use the previous values, or another folder"
        )
    if scenario.rounds < previous.rounds:
        raise InputError(
            f"{folder} holds a run of {previous.rounds} "
            f"round{'s' if previous.rounds != 1 else ''}, and rounds is {scenario.rounds}; "
            f"give at least {previous.rounds}, or another folder"
        )
    if scenario.to_yaml() == read_regular(path).decode():
        return
    with _explained(path):
        write_whole(path, scenario.to_yaml())


def read_run_id(folder: Path) -> str:
    """Return the unique id of the folder's run.

    Raises:
        InputError: if ``run.json`` has none.
    """
    known = _read_run(folder)
    if "id" not in known:
        raise InputError(
            f"{folder / RUN_FILE} does not have the run's id; restore the file, or write "
            '{"id": "any name"} to it'
        )
    return str(known["id"])


def holds_loop(folder: Path) -> bool:
    """Return whether a folder holds the rounds of a loop of one's own."""
    return bool(_read_run(folder).get("loop", False))


def require_loop(folder: Path, *, is_loop: bool) -> None:
    """Check that a folder holds the rounds of a loop of one's own, or those of a run.

    Raises:
        InputError: if it holds the other.
    """
    if holds_loop(folder) != is_loop:
        kinds = (
            "a run; continue it with simfl resume",
            "a loop of its author's, which continues it with simfl.federation(..., resume='auto')",
        )
        raise InputError(f"{folder} holds {kinds[not is_loop]}; or choose another folder")


def require_own(folder: Path, objects: Objects, *, do: str = "resume") -> None:
    """Check that this process has what a run's notebook or script had defined.

    Args:
        folder: the run's.
        objects: those that are given again.
        do: what is done with the run, by the function of simfl of that name.

    Raises:
        InputError: naming what it does not have.
    """
    own = [pair for pair in _read_run(folder).get("own", []) if len(pair) == 2]
    if missing := find_missing(own, objects):
        raise InputError(
            f"the run in {folder} was started by a notebook or script, which defines "
            f"{', '.join(missing)}; {do} it there, by simfl.{do}({str(folder)!r}), and give it "
            "the same objects"
        )


def _read_run(folder: Path) -> dict[str, Any]:
    """Return what ``run.json`` says; nothing if it is missing or damaged."""
    try:
        known = json.loads(read_regular(folder / RUN_FILE))
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def is_done(folder: Path, scenario: Scenario) -> bool:
    """Return whether the folder's run has finished all rounds, or has ended early."""
    try:
        summary = json.loads(read_regular(folder / SUMMARY_FILE))
        has_all = summary["rounds"] >= scenario.rounds
        ends_here = scenario.stop is not None and "stopped_early" in summary
        return bool(summary["status"] == "done" and (has_all or ends_here))
    # There is none, or it is damaged: continuing from the last checkpoint rewrites it.
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def read_history(folder: Path, rounds: int) -> list[RoundRecord]:
    """Return the records of the first rounds, which a checkpoint says are done.

    Raises:
        CheckpointError: if ``metrics.jsonl`` does not hold them.
    """
    if rounds == 0:
        return []
    path = folder / METRICS_FILE
    try:
        lines = read_regular(path, limit=_MAX_METRICS).decode().split("\n")[:rounds]
        history = [_read_record(line) for line in lines]
        whole = [record.round for record in history] == list(range(1, rounds + 1))
        whole = whole and all(_is_count(record["dropped"]) for record in history)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise CheckpointError(
            f"{path} does not hold the {rounds} "
            f"round{'s' if rounds != 1 else ''} that the checkpoint has; "
            "restore the file, or run the scenario in another folder"
        )
    return history


def _read_record(line: str) -> RoundRecord:
    # Earlier versions wrote NaN, which is not valid JSON.
    return RoundRecord.parse(json.loads(line, parse_constant=lambda _: None))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def write_weights(folder: Path, weights: Vector, *, name: str = WEIGHTS_FILE) -> None:
    """Write weights atomically, by default as ``weights.safetensors``.

    Raises:
        RunError: if it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = folder / name
    try:
        with replacing(path) as aside:
            mode = aside.stat().st_mode  # that of new files; save_file's are private to the owner
            save_file(dict(weights.map(lambda tensor: tensor.contiguous()).items()), aside)
            aside.chmod(mode)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"all rounds are done, but {path} cannot be written: {error}; "
            "make it writable, and resume the run"
        ) from None


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by their names within a run's folder, each atomically.

    Raises:
        RunError: if one cannot be written.
    """
    for name, content in files.items():
        path = folder / name
        try:
            path.parent.mkdir(exist_ok=True)
            with replacing(path) as aside:
                aside.write_bytes(content)
        except OSError as error:
            raise RunError(
                f"all rounds are done, but {path} cannot be written: {error}; "
                "make it writable, and resume the run"
            ) from None


def _new_run(
    better: Mapping[str, str], units: Mapping[str, str], is_loop: bool, own: list[list[str]]
) -> str:
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    known: dict[str, Any] = {"better": dict(better), "units": dict(units)}
    known |= {"loop": True} if is_loop else {}
    known |= {"own": own} if own else {}
    return json.dumps({"id": uuid.uuid4().hex[:12], "began": began, **known}, indent=2) + "\n"


def _versions() -> str:
    versions: dict[str, str | None] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    versions |= {package: _version(package) for package in _PACKAGES}
    return json.dumps(versions, indent=2) + "\n"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
