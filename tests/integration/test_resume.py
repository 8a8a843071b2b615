"""A run that was stopped goes on to the numbers of one that never was."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open
from safetensors.numpy import load_file
from warm import WarmPython

import simfl
from simfl.errors import CheckpointError, InputError
from simfl.record import RoundRecord

HERE = str(Path(__file__).parent)


def scenario(**changes: Any) -> dict[str, Any]:
    """All at once: SCAFFOLD with half of the clients a round, noise, a kept momentum, a schedule
    by steps, FedProx, a third-party module with a state, and Adam on the server."""
    noise = ["gaussian-noise", {"std": 0.01}]
    rate = ["exponential", {"base": 0.1, "factor": 0.95, "unit": "step"}]
    return {
        "rounds": 9,
        "seed": 1,
        "plugins": ["killing", "third_party"],
        "search": [HERE],
        "data": {
            "source": "digits",
            "test_fraction": 0.2,
            "partition": {"kind": "dirichlet", "clients": 10, "alpha": 0.5},
        },
        "model": {"kind": "logistic"},
        "client": {
            "per_round": 5,
            "batch_size": 16,
            "optimizer": {
                "lrate": rate,
                "regularizers": ["fedprox"],
                "modules": ["scaffold-client", noise, "fading", "momentum"],
            },
        },
        "server": {"optimizer": {"lrate": 0.01, "modules": ["scaffold-server", "adam"]}},
        "checkpoint": {"every": 2},
        "cluster": {"actors": 2},
    } | changes


def numbers(out: Path) -> tuple[Any, ...]:
    """Return every number in a run's folder but the seconds."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    weights = {
        name: array.tobytes() for name, array in load_file(out / "weights.safetensors").items()
    }
    return weights, [RoundRecord.parse(line).reproducible for line in lines]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """The numbers of a run that nothing has happened to."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    simfl.run(scenario(), out=out, backend="inline")
    return numbers(out)


def command(*arguments: object) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "simfl", *map(str, arguments)]
    return subprocess.Popen(line, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def write(folder: Path, plain: dict[str, Any]) -> Path:
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump(plain))
    return path


def stop_when(path: Path, process: subprocess.Popen[str], signum: int) -> None:
    """Send a signal once the file is there; the test's own limit ends the wait."""
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signum)
    process.communicate(timeout=60)


def killed_in_round(number: int, tmp_path: Path, warm: WarmPython) -> Path:
    """Run in one process, which is killed in the middle of a round; return the folder."""
    plain = scenario()
    client = simfl.load_scenario(plain)
    who = client_in(client, number)
    plain["client"]["optimizer"]["modules"].append(
        ["kill-at", {"folder": str(tmp_path), "client": who, "round": number}]
    )
    out = tmp_path / "out"
    done = warm.simfl("run", write(tmp_path, plain), "--backend", "inline", "--out", out)
    assert done.returncode == -signal.SIGKILL
    return out


def client_in(loaded: simfl.Scenario, number: int) -> int:
    from simfl.simulation import build

    return build(loaded).plan_round(number).clients[2]


@pytest.mark.parametrize("number", [2, 3, 8])
def test_a_process_killed_in_mid_round_goes_on_from_its_last_checkpoint(
    number: int, tmp_path: Path, undisturbed: tuple[Any, ...], warm: WarmPython
) -> None:
    """In round 2 there is no checkpoint yet: the run starts from the beginning."""
    out = killed_in_round(number, tmp_path, warm)
    result = simfl.resume(out, backend="inline")
    assert numbers(out) == undisturbed
    assert result.summary.get("resumed_after_round") == (None, 2, 6)[[2, 3, 8].index(number)]


@pytest.mark.ray
@pytest.mark.parametrize(
    "signum",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_driver_on_ray_stopped_by_any_signal_goes_on(
    signum: int, tmp_path: Path, ray_cluster: None, undisturbed: tuple[Any, ...]
) -> None:
    """In round 5, which a client holds up until then."""
    plain = scenario()
    hold = {"folder": str(tmp_path), "client": client_in(simfl.load_scenario(plain), 5), "round": 5}
    plain["client"]["optimizer"]["modules"].append(["hold-at", hold])
    out = tmp_path / "out"
    process = command("run", write(tmp_path, plain), "--out", out)
    stop_when(tmp_path / "hold-5-0", process, signum)
    result = simfl.resume(out, backend="inline")
    # The checkpoint of round 4 may not have been whole yet.
    assert result.summary["resumed_after_round"] in (2, 4)
    assert numbers(out) == undisturbed


@pytest.mark.slow
def test_what_began_on_one_backend_may_end_on_the_other(
    tmp_path: Path, ray_cluster: None, undisturbed: tuple[Any, ...], warm: WarmPython
) -> None:
    """Random scenarios, which stop and are not killed, go on elsewhere with the quick tests."""
    out = killed_in_round(6, tmp_path, warm)
    simfl.resume(out, backend="ray")
    assert numbers(out) == undisturbed


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    tmp_path: Path,
    undisturbed: tuple[Any, ...],
    capsys: pytest.CaptureFixture[str],
    warm: WarmPython,
) -> None:
    out = killed_in_round(8, tmp_path, warm)
    damaged = out / "checkpoints" / "round-000006" / "server.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    result = simfl.resume(out, backend="inline")
    assert "checkpoint round-000006 cannot be used" in " ".join(capsys.readouterr().err.split())
    assert result.summary["resumed_after_round"] == 4
    assert numbers(out) == undisturbed


def test_resume_auto_starts_where_there_is_nothing_and_goes_on_where_there_is(
    tmp_path: Path, undisturbed: tuple[Any, ...], warm: WarmPython
) -> None:
    out = killed_in_round(7, tmp_path, warm)
    plain = yaml.safe_load((tmp_path / "scenario.yaml").read_text())
    result = simfl.run(plain, out=out, backend="inline", resume="auto")
    assert result.summary["resumed_after_round"] == 6
    assert numbers(out) == undisturbed
    fresh = tmp_path / "fresh"
    simfl.run(scenario(), out=fresh, backend="inline", resume="auto")
    assert numbers(fresh) == undisturbed


def test_another_scenario_is_not_mixed_in(tmp_path: Path) -> None:
    """Whether there is a checkpoint yet or not, and whatever the checkpoints' place says."""
    out = tmp_path / "out"
    simfl.run(scenario(rounds=1), out=out, backend="inline")
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with pytest.raises(InputError, match="out holds a run of another scenario: seed was 1 and is"):
        simfl.run(scenario(seed=2), out=out, backend="inline", resume="auto")
    other = scenario(model={"kind": "mlp"}, evaluation={"every": 2})
    with pytest.raises(InputError, match=r'scenario: model\.kind was "logistic" and is "mlp"'):
        simfl.run(other, out=out, backend="inline", resume="auto")
    assert {path: path.read_bytes() for path in before} == before
    location = {"every": 2, "location": str(tmp_path / "elsewhere")}
    simfl.run(scenario(rounds=2, checkpoint=location), out=tmp_path / "a", backend="inline")
    mixed = scenario(seed=2, checkpoint=location)
    with pytest.raises(CheckpointError, match="another scenario"):
        simfl.run(mixed, out=tmp_path / "b", backend="inline", resume="auto")


def test_a_run_that_gets_more_rounds_is_the_longer_run_from_then_on(
    tmp_path: Path, undisturbed: tuple[Any, ...]
) -> None:
    """Also for ``resume``, where the longer run was stopped in its turn."""
    out = tmp_path / "out"
    simfl.run(scenario(rounds=5), out=out, backend="inline", resume="auto")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simfl.simulation.runner.run_rounds", stop)
        with pytest.raises(OSError, match="stopped here"):
            simfl.run(scenario(), out=out, backend="inline", resume="auto")
    assert yaml.safe_load((out / "scenario.yaml").read_text())["rounds"] == 9
    result = simfl.resume(out, backend="inline")
    assert result.summary["resumed_after_round"] == 4
    assert numbers(out) == undisturbed
    with pytest.raises(InputError, match=r"a run of 9 rounds, and rounds is 5; give at least 9"):
        simfl.run(scenario(rounds=5), out=out, backend="inline", resume="auto")


def stop(*_: Any, **__: Any) -> None:
    raise OSError("stopped here")


def test_where_all_checkpoints_are_damaged_each_is_named_and_the_run_starts_anew(
    tmp_path: Path, undisturbed: tuple[Any, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    simfl.run(scenario(), out=out, backend="inline")
    (out / "summary.json").unlink()
    (out / "checkpoints" / "round-000008" / "manifest.json").write_bytes(b"{}")
    (out / "checkpoints" / "round-000006" / "server.safetensors").write_bytes(b"")
    result = simfl.resume(out, backend="inline")
    told = " ".join(capsys.readouterr().err.split())
    assert "round-000008 cannot be used: its manifest is damaged" in told
    damaged = "round-000006 cannot be used: round-000006/server.safetensors has 0 bytes, not "
    assert damaged in told
    assert "can be used; the run starts over" in told
    assert "resumed_after_round" not in result.summary
    assert numbers(out) == undisturbed


def test_there_must_be_a_run_that_is_not_done(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        simfl.resume(tmp_path, backend="inline")
    simfl.run(scenario(rounds=1), out=tmp_path / "out", backend="inline")
    with pytest.raises(InputError, match="is done"):
        simfl.resume(tmp_path / "out", backend="inline")


def test_states_that_outgrow_their_memory_go_to_disk_and_come_back(
    tmp_path: Path, ray_cluster: None, undisturbed: tuple[Any, ...]
) -> None:
    """A budget of one byte: every state is read from a shard in its next round.

    All 10 clients have a present state; a shard is at least half full of these, and those from
    which some have just been moved are deleted after the next spill only.
    """
    for backend in ("inline", "ray"):
        out = tmp_path / backend
        tight = scenario(checkpoint={"every": 0}, cluster={"actors": 2, "state_memory": 1})
        simfl.run(tight, out=out, backend=backend)
        assert numbers(out) == undisturbed
        assert list((out / "checkpoints" / "states").glob("spill-*"))
        assert rows_on_disk(out / "checkpoints") <= 3 * 10


def rows_on_disk(checkpoints: Path) -> int:
    """Return how many states all shards hold together, with those that are out of date."""
    rows = 0
    for path in (checkpoints / "states").iterdir():
        with safe_open(path, "numpy") as shard:
            rows += len(shard.keys())
    return rows


def test_disk_use_stays_bounded_and_every_checkpoint_that_is_kept_serves(tmp_path: Path) -> None:
    """60 rounds of 5 clients bring 300 states; each of 3 checkpoints and the run itself need 10,
    in shards that are half full or more."""
    plain = scenario(
        rounds=60,
        checkpoint={"every": 7, "keep": 3},
        evaluation={"every": 0},
        cluster={"state_memory": 1},
    )
    whole = tmp_path / "whole"
    simfl.run(plain, out=whole, backend="inline")
    assert rows_on_disk(whole / "checkpoints") <= 4 * 2 * 10
    for newest in (42, 49, 56):
        out = tmp_path / str(newest)
        shutil.copytree(whole, out)
        (out / "summary.json").unlink()
        for path in (out / "checkpoints").glob("round-*"):
            if int(path.name.removeprefix("round-")) > newest:
                shutil.rmtree(path)
        result = simfl.resume(out, backend="inline")
        assert result.summary["resumed_after_round"] == newest
        assert numbers(out) == numbers(whole)


def test_checkpoints_in_an_object_store_serve_as_well(
    tmp_path: Path, undisturbed: tuple[Any, ...]
) -> None:
    location = f"memory://{tmp_path.name}/run"
    out = tmp_path / "out"
    simfl.run(
        scenario(rounds=5, checkpoint={"every": 2, "location": location}), out=out, backend="inline"
    )
    (out / "summary.json").unlink()
    longer = scenario(checkpoint={"every": 2, "location": location})
    simfl.run(longer, out=out, backend="inline", resume="auto")
    assert numbers(out) == undisturbed
