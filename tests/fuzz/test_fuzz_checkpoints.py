"""Checkpoints: whatever is done to their files, what is accepted is what was written."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import simfl
from simfl.checkpoint import latest_checkpoint, prune
from simfl.errors import CheckpointError, InputError
from simfl.states import StateFile, load_state, open_storage
from tests.unit.states.state_cases import bits

from .fuzzing import altered, altered_tree, fuzzed, require_clear

pytestmark = pytest.mark.usefixtures("only_our_components")

SCENARIO = {
    "rounds": 5,
    "data": {"source": "synthetic", "clients": 4, "features": 3, "classes": 2, "max_examples": 60},
    "model": {"kind": "logistic"},
    "client": {
        "per_round": 2,
        "optimizer": {"lrate": 0.05, "modules": ["momentum", "scaffold-client"]},
    },
    "server": {"optimizer": {"modules": ["adam", "scaffold-server"]}},
    "checkpoint": {"every": 2},
}
WORDS = (b"\0", b"0", b"}", b'"', b"[" * 100, b"9" * 30, b"../../x", b"nan", b"\xff\xff\xff\xff")


@dataclass(frozen=True)
class Original:
    """A run that was stopped after its fourth round, and what it would have come to."""

    folder: Path
    files: tuple[str, ...]
    """Of its checkpoints."""
    by_round: dict[int, Any]
    """The bits of each checkpoint, and of the states it names."""
    weights: Any
    """The bits of the run that was never stopped."""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    folder = tmp_path_factory.mktemp("original") / "run"
    weights = bits_of(simfl.run(SCENARIO, out=folder, backend="inline").weights)
    for name in ("summary.json", "weights.safetensors"):
        (folder / name).unlink()
    checkpoints = folder / "checkpoints"
    files = [str(p.relative_to(checkpoints)) for p in checkpoints.rglob("*") if p.is_file()]
    by_round = {}
    for round in (4, 2):
        by_round[round] = found_bits(checkpoints)[1]
        (checkpoints / f"round-{round:06d}" / "manifest.json").rename(folder / f"{round}.json")
    for round in (4, 2):
        (folder / f"{round}.json").rename(checkpoints / f"round-{round:06d}" / "manifest.json")
    assert sorted(by_round) == [2, 4]
    assert any(name.startswith("states/") for name in files)
    return Original(folder, tuple(sorted(files)), by_round, weights)


def bits_of(weights: dict[str, Any]) -> Any:
    return {name: (str(a.dtype), a.shape, a.tobytes()) for name, a in weights.items()}


def found_bits(checkpoints: Path) -> tuple[int, Any] | None:
    """Read the newest checkpoint as a resumed run does; None if none is accepted."""
    found = latest_checkpoint(open_storage(checkpoints))
    for refusal in found.refusals:
        assert str(refusal).isprintable()
    if found.checkpoint is None:
        return None
    location = str(checkpoints)
    states = {
        client: bits(load_state(StateFile(location, shard, client)))
        for client, shard in found.checkpoint.states.items()
    }
    return found.checkpoint.round, (bits(found.checkpoint), states)


def copied(original: Original, folder: Path) -> Path:
    """Return a fresh copy of the run's folder."""
    copy = folder / "run"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(original.folder, copy)
    return copy


@st.composite
def damage(draw: st.DrawFn, original: Original, checkpoints: Path) -> None:
    """Do something to one or two of the files."""
    for _ in range(draw(st.integers(1, 2))):
        path = checkpoints / draw(st.sampled_from(original.files))
        other = checkpoints / draw(st.sampled_from(original.files))
        if not (path.exists() and other.exists()):
            return
        match draw(st.integers(0, 5)):
            case 0:
                path.unlink()
            case 1:
                swapped = path.read_bytes()
                path.write_bytes(other.read_bytes())
                other.write_bytes(swapped)
            case 2:
                shutil.copy(path, other) if path != other else None
            case _:
                path.write_bytes(draw(altered(path.read_bytes(), WORDS)))


@fuzzed(50)
@given(st.data())
def test_what_is_accepted_is_what_was_written(
    folder: Path, original: Original, data: st.DataObject
) -> None:
    checkpoints = copied(original, folder) / "checkpoints"
    data.draw(damage(original, checkpoints))
    try:
        found = found_bits(checkpoints)
    except CheckpointError as error:
        require_clear(error)
        return
    if found is not None:
        round, value = found
        assert value == original.by_round[round]


@fuzzed(15)
@given(st.data())
def test_a_resumed_run_comes_to_the_same_bits_or_says_why_not(
    folder: Path, original: Original, data: st.DataObject
) -> None:
    run = copied(original, folder)
    data.draw(damage(original, run / "checkpoints"))
    try:
        result = simfl.resume(run, backend="inline", trust="none")
    except InputError as error:
        require_clear(error)
        return
    assert bits_of(result.weights) == original.weights


MANIFEST_VALUES = (
    *(None, True, 0, -1, 4, 2**70, 1.0, float("nan"), "", "x", [], {}, "0" * 64, [0], ["a"]),
    *("../../../etc/passwd", "/etc/passwd", "..", "a/b", "a\0b", "\x1b[2J", "\ud800", [[]], "é"),
)


def signed(body: Any) -> bytes:
    """Write a manifest with a valid checksum, as an attacker would."""
    if not isinstance(body, dict):
        return json.dumps(body).encode()
    entries = {key: value for key, value in body.items() if key != "sha256"}
    digest = hashlib.sha256(dumped(entries)).hexdigest()
    return dumped({**entries, "sha256": digest})


def dumped(body: Any) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode() + b"\n"


@fuzzed(50)
@given(st.data())
def test_a_forged_manifest_reads_nothing_outside_and_ends_in_a_line(
    folder: Path, original: Original, data: st.DataObject
) -> None:
    checkpoints = copied(original, folder) / "checkpoints"
    path = checkpoints / "round-000004" / "manifest.json"
    forged = data.draw(altered_tree(json.loads(path.read_bytes()), MANIFEST_VALUES))
    path.write_bytes(signed(forged))
    around = snapshot(folder, but=checkpoints)
    try:
        found_bits(checkpoints)
        prune(open_storage(checkpoints), keep=1)
    except CheckpointError as error:
        require_clear(error)
    assert snapshot(folder, but=checkpoints) == around


def snapshot(folder: Path, *, but: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and but not in path.parents
    }


SKELETON_VALUES = (
    *(None, True, 0, -1, 2**70, 1.5, "", "x", [], {}, {"tensor": "x"}, {"int": "0x1"}),
    {"int": "z"},
    *({"float": "00"}, {"tuple": []}, {"dict": [[1, 2], [1, 2]]}, {"dict": [[[], 1]]}, {"dict": 1}),
    *({"record": "KeptState", "fields": {}}, {"record": "os.system", "fields": {}}, {"record": []}),
    *({"vector": [["w", 1]], "stacked": False}, {"vector": [], "stacked": 1}, {"vector": [[]]}),
    *({"tensor": "x", "dtype": "complex64", "shape": [-1]}, {"float": "7ff8000000000001"}),
)


def resealed(original: Original, checkpoints: Path, skeleton: str) -> None:
    """Put another skeleton into the server's file, and sign the manifest for it."""
    folder = checkpoints / "round-000004"
    data = (folder / "server.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["simfl"] = skeleton
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    forged = len(text).to_bytes(8, "little") + text + data[8 + length :]
    (folder / "server.safetensors").write_bytes(forged)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["server"] = {"sha256": hashlib.sha256(forged).hexdigest(), "num_bytes": len(forged)}
    (folder / "manifest.json").write_bytes(signed(manifest))


@fuzzed(60)
@given(st.data())
def test_a_forged_server_file_is_refused_or_holds_numbers(
    folder: Path, original: Original, data: st.DataObject
) -> None:
    """All checksums are right. What is in the file may be anything, and is numbers and text."""
    checkpoints = copied(original, folder) / "checkpoints"
    header = (checkpoints / "round-000004" / "server.safetensors").read_bytes()
    length = int.from_bytes(header[:8], "little")
    skeleton = json.loads(json.loads(header[8 : 8 + length])["__metadata__"]["simfl"])
    forged = data.draw(altered_tree(skeleton, SKELETON_VALUES))
    resealed(original, checkpoints, json.dumps(forged))
    found = latest_checkpoint(open_storage(checkpoints))
    for refusal in found.refusals:
        assert str(refusal).isprintable()
    assert found.checkpoint is not None  # this one, or the one before it
    assert {type(tensor) for tensor in found.checkpoint.weights.tensors} <= {torch.Tensor}
