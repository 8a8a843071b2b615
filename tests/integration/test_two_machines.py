"""Two machines on one wire: a run whose nodes hardly reach each other, or no longer do, or share
no files, ends with the same bits, or says why.

The driver, the server and room for one client actor are on one of them, room for two on the other.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from machines import HERE, RayOnTwoMachines, why_there_are_none
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from states_on_nodes import numbers, scenario

import simfl
from simfl.simulation import build

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_there_are_none()), reason=why_there_are_none() or ""),
]


@pytest.fixture(scope="module")
def unshared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that the node cannot see."""
    return tmp_path_factory.mktemp("unshared")


@pytest.fixture(scope="module")
def started(unshared: Path) -> Iterator[RayOnTwoMachines]:
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        machines = RayOnTwoMachines(Path(folder), head_cpus=1, node_cpus=2, hidden=unshared)
        yield machines
        machines.end()


@pytest.fixture
def machines(started: RayOnTwoMachines) -> RayOnTwoMachines:
    started.repair()
    return started


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    out = tmp_path_factory.mktemp("undisturbed")
    return numbers(simfl.run(scenario(), out=out / "run", backend="inline").out)


def brief(**cluster: Any) -> dict[str, Any]:
    """Return a scenario whose clients keep nothing, so that its rounds are run in series."""
    plain = scenario(**cluster)
    plain["client"] |= {"keep_state": False, "optimizer": {"lrate": 0.05, "modules": []}}
    return plain | {"server": {"optimizer": {"modules": ["adam"]}}, "checkpoint": {"every": 4}}


class HeldRun:
    """``simfl run`` on the machines, held in the midst of rounds until it is let go."""

    def __init__(
        self,
        machines: RayOnTwoMachines,
        folder: Path,
        *,
        rounds: tuple[int, ...],
        keeps: bool = True,
        **cluster: Any,
    ) -> None:
        self.out = folder / "out"
        self._folder = folder
        plain = scenario(**cluster) if keeps else brief(**cluster)
        plain |= {"plugins": ["killing", *([] if keeps else ["in_series"])], "search": [str(HERE)]}
        simulation = build(simfl.load_scenario(plain))
        for round in rounds:
            self._at(round).mkdir()
            client = simulation.plan_round(round).clients[-1]
            hold = {"folder": str(self._at(round)), "client": client, "round": round}
            plain["client"]["optimizer"]["modules"].append(["hold-at", hold])
        path = folder / "scenario.yaml"
        path.write_text(yaml.safe_dump(plain))
        self._log = folder / "log"
        with self._log.open("w") as log:
            self.process = machines.simfl(
                *("run", path, "--out", self.out, "--address", machines.address),
                stdout=log,
                start_new_session=True,
            )

    def _at(self, round: int) -> Path:
        return self._folder / f"round-{round}"

    @property
    def output(self) -> str:
        """What it has printed."""
        return self._log.read_text()

    @property
    def gave_up(self) -> bool:
        """Whether Ray has said that it takes the node for dead."""
        return "marked dead" in self.output

    def until_given_up(self) -> None:
        while not self.gave_up:
            assert self.process.poll() is None, self.output
            time.sleep(0.02)

    def until_held(self, round: int) -> None:
        while not (self._at(round) / f"hold-{round}-0").exists():
            assert self.process.poll() is None, self.output
            time.sleep(0.02)

    def let_go(self, round: int) -> None:
        (self._at(round) / "go").touch()

    @property
    def num_rounds(self) -> int:
        """The number of rounds that are recorded."""
        return len((self.out / "metrics.jsonl").read_text().splitlines())

    def code(self) -> int:
        """Wait for its end; return its exit code."""
        return self.process.wait(timeout=120)

    def end(self) -> None:
        """Kill it, and the process that entered the machine for it."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def run(machines: RayOnTwoMachines, tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    held = HeldRun(machines, tmp_path, **request.param)
    yield held
    held.end()
    machines.is_lost = held.gave_up


def interrupt(machines: RayOnTwoMachines, run: HeldRun, round: int) -> None:
    """Cut the wire in a round for less time than Ray gives a node up after."""
    machines.wire.set("cut")
    run.let_go(round)
    time.sleep(0.8)
    machines.wire.set("heal")


def lose_node(machines: RayOnTwoMachines, run: HeldRun, round: int) -> None:
    """Cut the wire in a round until Ray has given the node up."""
    machines.wire.set("cut")
    run.let_go(round)
    run.until_given_up()
    machines.wire.set("heal")


@pytest.mark.parametrize("run", [{"rounds": (3, 6)}], indirect=True)
def test_delay_loss_and_interruptions_do_not_change_the_bits(
    machines: RayOnTwoMachines, run: HeldRun, undisturbed: Any
) -> None:
    """After the long interruption the node is back, and learns that it was declared lost."""
    machines.wire.set("delay 0.02", "loss 0.015")
    run.until_held(3)
    interrupt(machines, run, 3)
    run.until_held(6)
    assert not run.gave_up
    lose_node(machines, run, 6)
    assert run.code() == 0, run.output
    assert numbers(run.out) == undisturbed


@pytest.mark.parametrize("run", [{"rounds": (4, 6), "keeps": False, "actors": 3}], indirect=True)
def test_a_series_of_rounds_goes_on_after_an_interruption_or_is_run_round_by_round(
    machines: RayOnTwoMachines, run: HeldRun, tmp_path: Path
) -> None:
    """Rounds 3 and 4 are a series, and so are 5 and 6."""
    undisturbed = numbers(simfl.run(brief(), out=tmp_path / "inline", backend="inline").out)
    run.until_held(4)
    assert run.num_rounds <= 2
    interrupt(machines, run, 4)
    run.until_held(6)
    assert run.num_rounds <= 4  # a series begins before those of the last are recorded
    assert not run.gave_up
    lose_node(machines, run, 6)
    assert run.code() == 0, run.output
    assert numbers(run.out) == undisturbed


ON_THE_NODE = {"rounds": (6,), "actors": 1, "num_cpus": 2, "start_timeout_s": 15}
"""The head has no room for such an actor."""


@pytest.mark.parametrize("run", [ON_THE_NODE], indirect=True)
def test_a_run_that_loses_all_actors_ends_in_time_and_can_be_resumed(
    machines: RayOnTwoMachines, run: HeldRun, undisturbed: Any
) -> None:
    run.until_held(6)
    machines.wire.set("cut")
    run.let_go(6)
    assert run.code() == 1
    (line,) = [line for line in run.output.splitlines() if line.startswith("client-0")]
    assert "could not be started again within 15 s" in line
    assert (run.out / "checkpoints" / "round-000004" / "manifest.json").exists()
    simfl.resume(run.out, backend="inline")
    assert numbers(run.out) == undisturbed


def test_a_node_without_the_drivers_folders_is_sent_plug_ins_and_states(
    machines: RayOnTwoMachines, unshared: Path, undisturbed: Any
) -> None:
    """All states are moved to files of the driver's machine after each round."""
    shutil.copy(HERE / "killing.py", unshared)
    plain = scenario(state_memory=1) | {"plugins": ["killing"]}
    never = ["hold-at", {"folder": "nowhere", "client": 0, "round": 99}]
    plain["client"]["optimizer"]["modules"].append(never)
    (unshared / "scenario.yaml").write_text(yaml.safe_dump(plain))
    process = machines.simfl(
        "run", unshared / "scenario.yaml", "--out", unshared / "out", "--address", machines.address
    )
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert numbers(unshared / "out") == undisturbed
    assert not machines.node.sh(f"ls {unshared}")


def test_a_base_crosses_the_wire_once_for_all_actors_of_a_node(
    machines: RayOnTwoMachines, tmp_path: Path
) -> None:
    """It is the first layer, of 12.8 MB. The second, of 2 MB, is sent to each node once a round."""
    base = 65 * 49_152 * 4
    plain = scenario(actors=3) | {
        "rounds": 1,
        "model": {"kind": "mlp", "hidden": [49_152], "fixed": ["hidden1"]},
        "server": {},
        "checkpoint": {"every": 0},
        "output": {"clients": True},
    }
    plain["client"] |= {"steps": 1, "optimizer": {"lrate": 0.05}}
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(plain))
    before, _ = machines.wire.num_bytes()
    process = machines.simfl("run", path, "--out", tmp_path / "out", "--address", machines.address)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "3 client actors" in output
    sent = machines.wire.num_bytes()[0] - before
    assert base < sent < 1.5 * base
    expected = simfl.run(plain, out=tmp_path / "inline", backend="inline")
    assert numbers(tmp_path / "out") == numbers(expected.out)


def test_another_base_on_a_node_is_an_error_that_names_a_weight(
    machines: RayOnTwoMachines, unshared: Path, tmp_path: Path
) -> None:
    layer = {"weight": torch.ones(32, 64), "bias": torch.zeros(32)}
    save_file(layer, unshared / "base.safetensors")
    save_file(layer | {"bias": torch.full((32,), 0.5)}, tmp_path / "other.safetensors")
    machines.node.sh(f"cp {tmp_path}/other.safetensors {unshared}/base.safetensors")
    plain = scenario(actors=3) | {"search": [str(HERE)]}
    arguments = {"file": str(unshared / "base.safetensors")}
    plain["model"] = {
        "kind": "python",
        "path": "states_on_nodes:net_on_file",
        "arguments": arguments,
    }
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(plain))
    process = machines.simfl("run", path, "--out", tmp_path / "out", "--address", machines.address)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "'1.bias' is built with other values here than where the run began" in output
    assert "Traceback" not in output
    machines.node.sh(f"rm {unshared}/base.safetensors")


def test_files_of_arrays_on_each_node_are_mapped_there_and_missing_ones_are_one_line(
    machines: RayOnTwoMachines, unshared: Path, tmp_path: Path
) -> None:
    """The node does not see the driver's folder; it has a copy at the same place, later none."""
    folder = unshared / "arrays"
    folder.mkdir()
    images, labels = load_digits(return_X_y=True)
    np.save(folder / "inputs.npy", images.astype(np.float32) / 16)
    np.save(folder / "targets.npy", labels)
    plain = scenario(actors=3) | {"rounds": 2}
    plain["data"] |= {"source": "npy", "path": str(folder), "test_fraction": 0.0}
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(plain))

    def run(out: str) -> tuple[int, str]:
        process = machines.simfl(
            "run", path, "--out", tmp_path / out, "--address", machines.address
        )
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    shutil.copytree(folder, tmp_path / "copy")
    machines.node.sh(f"cp -rp {tmp_path}/copy {folder}")
    code, output = run("copied")
    assert code == 0, output
    assert "3 client actors" in output
    expected = simfl.run(plain, out=tmp_path / "inline", backend="inline")
    assert numbers(tmp_path / "copied") == numbers(expected.out)
    machines.node.sh(f"rm -r {folder}")
    code, output = run("missing")
    assert code == 2, output
    (line,) = [line for line in output.splitlines() if str(folder) in line]
    assert line.startswith(f"{folder}/")
    assert "npy is not there on" in line
    assert "put the folder at the same place on all nodes" in line
    assert "Traceback" not in output
