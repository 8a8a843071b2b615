"""verify: what is run again has the same bits, or the first difference is named."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

import simfl
from simfl import verify
from simfl.checkpoint import read_checkpoint, write_checkpoint
from simfl.errors import InputError
from simfl.states import open_storage, read_state, write_shard
from simfl.vector import Vector


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four rounds of SCAFFOLD on three clients, with a checkpoint of round 2 and 4."""
    folder = tmp_path_factory.mktemp("original")
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(24, 5)).astype(np.float32)
    targets = (inputs.sum(axis=1) > 0).astype(np.int64)
    arrays = {"inputs": inputs, "targets": targets, "client": np.repeat([0, 1, 2], [4, 8, 12])}
    np.savez(folder / "data.npz", **arrays)
    optimizer = {"lrate": 0.1, "modules": ["scaffold-client"]}
    scenario = {
        "rounds": 4,
        "data": {"source": "npz", "path": str(folder / "data.npz")},
        "model": {"kind": "logistic"},
        "client": {"per_round": 2, "batch_size": 4, "optimizer": optimizer},
        "server": {"optimizer": {"modules": ["scaffold-server"]}, "weighting": "uniform"},
        "checkpoint": {"every": 2},
    }
    simfl.run(scenario, out=folder / "run", backend="inline")
    return folder / "run"


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    """A copy of the run, for a test to change."""
    return Path(shutil.copytree(original, tmp_path / "run"))


def said(run: Path, rounds: int | None = None) -> str:
    return str(verify(run, rounds, backend="inline"))


def test_a_run_is_the_same_again(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    verdict = verify(run, backend="inline")
    assert verdict.is_same
    assert str(verdict) == (
        "the same bits in 4 rounds, the checkpoints of rounds 2, 4 and the final weights"
    )
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_the_first_rounds_alone_are_compared(run: Path) -> None:
    assert said(run, 1) == "the same bits in 1 round"
    assert said(run, 2) == "the same bits in 2 rounds and the checkpoint of round 2"
    assert said(run, 99).startswith("the same bits in 4 rounds")


def test_a_run_that_was_killed_is_compared_as_far_as_it_went(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:3]) + lines[3][:20])
    (run / "summary.json").unlink()
    shutil.rmtree(run / "checkpoints" / "round-000004")
    assert said(run) == "the same bits in 3 rounds and the checkpoint of round 2"


def test_the_first_number_that_differs_by_one_bit_is_named(run: Path) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    is_now = records[2]["delta_norm"]
    for record in records[2:]:
        record["delta_norm"] = math.nextafter(record["delta_norm"], 1)
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    was = records[2]["delta_norm"]
    assert said(run) == f"differs first in round 3: delta_norm was {was!r}, and is {is_now!r}"
    assert verify(run, 2, backend="inline").is_same


def test_a_final_weight_that_differs_is_named(run: Path) -> None:
    weights = load_file(run / "weights.safetensors")
    name = max(weights, key=lambda name: weights[name].numel())
    weights[name].view(-1)[3] += 0.5
    save_file(weights, run / "weights.safetensors")
    numel = weights[name].numel()
    expected = f"{name} differs in 1 of {numel} numbers, by up to 0.5"
    assert said(run) == f"differs first in round 4: {expected}"


def test_a_weight_of_a_checkpoint_that_differs_is_named(run: Path) -> None:
    storage = open_storage(run / "checkpoints")
    found = read_checkpoint(storage, 2)
    assert found.checkpoint is not None
    weights = found.checkpoint.weights
    moved = {name: tensor + (name == max(weights)) for name, tensor in weights.items()}
    changed = replace(found.checkpoint, weights=Vector(moved))
    write_checkpoint(storage, changed, shards=found.shards)
    count = weights[max(weights)].numel()
    assert said(run) == (
        f"differs first in round 2: weights/{max(weights)} differs in {count} of {count} numbers, "
        "by up to 1"
    )


def test_a_clients_state_that_differs_is_named(run: Path) -> None:
    storage = open_storage(run / "checkpoints")
    found = read_checkpoint(storage, 2)
    assert found.checkpoint is not None
    client, shard = max(found.checkpoint.states.items())
    state = replace(read_state(storage, shard, client), algorithm={"another": 1})
    other = write_shard(storage, "other", {client: state})
    states = {**found.checkpoint.states, client: "other"}
    write_checkpoint(
        storage, replace(found.checkpoint, states=states), shards=[*found.shards, other]
    )
    assert said(run) == f"differs first in round 2: the state of client {client} has other bits"


def test_other_data_is_refused(run: Path, original: Path, tmp_path: Path) -> None:
    arrays = dict(np.load(original.parent / "data.npz"))
    np.savez(tmp_path / "other.npz", **(arrays | {"inputs": arrays["inputs"] + 1}))
    text = (run / "scenario.yaml").read_text()
    path = str(original.parent / "data.npz")
    (run / "scenario.yaml").write_text(text.replace(path, str(tmp_path / "other.npz")))
    with pytest.raises(InputError, match=r"the data of .* has changed since it ran; restore it"):
        verify(run, backend="inline")


def test_noise_that_no_seed_repeats_is_refused(run: Path) -> None:
    plain = yaml.safe_load((run / "scenario.yaml").read_text())
    plain["client"]["optimizer"]["modules"].append({"kind": "gaussian-noise", "secure": True})
    (run / "scenario.yaml").write_text(yaml.safe_dump(plain))
    with pytest.raises(InputError, match=r"gaussian-noise of client\.optimizer draws numbers that"):
        verify(run, backend="inline")


def test_a_run_without_rounds_and_a_folder_without_a_run_are_refused(run: Path) -> None:
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="has no rounds; there is nothing to compare"):
        verify(run, backend="inline")
    with pytest.raises(InputError, match="holds no run"):
        verify(run / "checkpoints", backend="inline")


def test_a_run_that_ended_early_is_the_same_again_with_its_best_weights(
    run: Path, tmp_path: Path
) -> None:
    plain = yaml.safe_load((run / "scenario.yaml").read_text())
    plain |= {"stop": {"metric": "train_loss", "target": 10.0}}
    plain["output"]["best"] = "train_loss"
    simfl.run(plain, out=tmp_path / "early", backend="inline")
    assert len((tmp_path / "early" / "metrics.jsonl").read_text().splitlines()) == 1
    assert said(tmp_path / "early") == "the same bits in 1 round and the final weights"
    weights = load_file(tmp_path / "early" / "best.safetensors")
    name = max(weights)
    weights[name] += 1
    save_file(weights, tmp_path / "early" / "best.safetensors")
    assert f"first in round 1: {name} differs in" in said(tmp_path / "early")


def test_a_run_of_objects_is_verified_with_the_same_objects(run: Path, tmp_path: Path) -> None:
    net = nn.Linear(5, 2)
    plain = yaml.safe_load((run / "scenario.yaml").read_text()) | {"rounds": 1}
    simfl.run(plain, out=tmp_path / "own", backend="inline", model=net)
    with pytest.raises(InputError, match=r"verify it there, by simfl\.verify\("):
        verify(tmp_path / "own", backend="inline")
    assert verify(tmp_path / "own", backend="inline", model=net).is_same


def test_the_loop_of_a_program_is_refused(run: Path) -> None:
    known = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(known | {"loop": True}))
    with pytest.raises(InputError, match="which only its program can repeat"):
        verify(run, backend="inline")


def test_another_machine_is_warned_of(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = json.loads((run / "provenance.json").read_text())
    assert about["processor"]["isa"]
    now = about["torch"]
    (run / "provenance.json").write_text(json.dumps(about | {"torch": "1.13.0"}))
    assert verify(run, 1, backend="inline").is_same
    warning = f"the bits may differ, since not all is as it was: torch 1.13.0 then, {now} now\n"
    assert capsys.readouterr().err == warning
    (run / "provenance.json").unlink()
    verify(run, 1, backend="inline")
    assert "does not record its processor and packages" in capsys.readouterr().err


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=e@x.org")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_and_what_has_changed_since_are_recorded(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    git(code, "init", "-q")
    (code / "own.py").write_text("a = 1\n")
    plain = {
        "rounds": 1,
        "data": {"source": "digits", "partition": {"kind": "iid", "clients": 60}},
        "model": {"kind": "logistic"},
        "client": {"per_round": 1, "optimizer": {"lrate": 0.1}},
    }
    (code / "s.yaml").write_text(json.dumps(plain))
    git(code, "add", ".")
    git(code, "commit", "-q", "-m", "first")
    (code / "own.py").write_text("a = 2\n")
    (code / "new.py").write_text("")
    simfl.run(code / "s.yaml", out=tmp_path / "out", backend="inline")
    about = json.loads((tmp_path / "out" / "provenance.json").read_text())
    found = next(one for one in about["git"] if one["folder"] == str(code.resolve()))
    assert found["commit"] == git(code, "rev-parse", "HEAD").strip()
    assert found["untracked"] == ["new.py"]
    git(code, "stash", "-q")
    git(code, "apply", str(tmp_path / "out" / found["diff"]))
    assert (code / "own.py").read_text() == "a = 2\n"
