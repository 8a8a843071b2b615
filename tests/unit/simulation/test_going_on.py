"""A run resumes only with the settings of its earlier rounds, and names what differs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

import simfl
from simfl.errors import CheckpointError, InputError
from simfl.record import RoundRecord
from simfl.scenario import Scenario, load_scenario
from simfl.simulation import RunOptions, open_run

GROUPS = [
    {"name": "a", "clients": {"fraction": 0.5}, "num_cpus": 0.5},
    {"name": "b", "num_cpus": 0.5},
]


@pytest.fixture
def scenario(tmp_path: Path) -> dict[str, Any]:
    write_data(tmp_path, seed=0)
    return {
        "rounds": 2,
        "data": {"source": "npz", "path": str(tmp_path / "data.npz")},
        "model": {"kind": "logistic"},
        "client": {"batch_size": 4, "optimizer": {"lrate": 0.1}},
        "checkpoint": {"every": 2},
    }


def write_data(folder: Path, *, seed: int) -> None:
    rng = np.random.default_rng(seed)
    np.savez(
        folder / "data.npz",
        inputs=rng.normal(size=(24, 5)).astype(np.float32),
        targets=np.arange(24) % 3,
        client=np.repeat([0, 1, 2], [4, 8, 12]),
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"threads": 2}, "cluster.threads was 1 and is 2"),
        ({"deterministic": True}, "cluster.deterministic was false and is true"),
        ({"num_gpus": 0.5}, 'cluster.num_gpus was 0 and is "more than 0"'),
    ],
)
def test_keys_of_the_cluster_that_change_bits_are_refused_by_name(
    changes: dict[str, Any], said: str, scenario: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    simfl.run(scenario, out=out, backend="inline")
    longer = scenario | {"rounds": 4, "cluster": changes}
    with pytest.raises(InputError, match=f"a run of another scenario: {said};"):
        simfl.run(longer, out=out, backend="inline", resume="auto")


def test_groups_have_devices_of_their_own(scenario: dict[str, Any]) -> None:
    def fingerprint(**changes: Any) -> str:
        groups = [GROUPS[0] | changes, GROUPS[1]]
        return load_scenario(scenario | {"cluster": {"groups": groups}}).fingerprint()

    assert fingerprint() == fingerprint(actors=3, resources={"disk": 1})
    assert fingerprint() != fingerprint(num_gpus=1)
    assert fingerprint(num_gpus=0.5) == fingerprint(num_gpus=1)
    assert fingerprint(num_gpus=1) != fingerprint(num_gpus=1, accelerator_type="H100")


def test_keys_of_later_versions_leave_the_fingerprint_as_it_was() -> None:
    """A fingerprint that was written before there was the key ``algorithm``."""
    scenario = {
        "rounds": 2,
        "data": {"source": "digits", "partition": {"kind": "iid", "clients": 4}},
        "model": {"kind": "mlp"},
        "client": {"optimizer": {"lrate": 0.1}},
    }
    written = "b1c6b06997a40c28f8a0cd73fc1da7a15697ab3bdf4ec2b3c1d3eec1c0d571f0"
    assert load_scenario(scenario).fingerprint() == written


def test_settings_that_do_not_affect_the_numbers_may_change(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    simfl.run(scenario, out=out, backend="inline")
    changed = {
        "name": "b",
        "rounds": 3,
        "cluster": {"actors": 3, "num_cpus": 0.1, "chunk_size": 1, "max_retries": 1},
        "checkpoint": {"every": 1, "keep": 3},
        "output": {"clients": False},
    }
    simfl.run(scenario | changed, out=out, backend="inline", resume="auto")


def test_an_edited_scenario_in_the_folder_is_reported_by_its_keys(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    simfl.run(scenario, out=out, backend="inline")
    edited = yaml.safe_load((out / "scenario.yaml").read_text())
    edited["rounds"] = 4
    edited["client"]["batch_size"] = 8
    (out / "scenario.yaml").write_text(yaml.safe_dump(edited))
    said = r"checkpoints was written by a run of another scenario: client.batch_size was 4 and is 8"
    with pytest.raises(CheckpointError, match=said):
        simfl.resume(out, backend="inline")


def test_other_data_of_the_same_shapes_is_refused(scenario: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    simfl.run(scenario, out=out, backend="inline")
    write_data(tmp_path, seed=1)
    longer = scenario | {"rounds": 4}
    with pytest.raises(CheckpointError, match="was written with different data of the same shapes"):
        simfl.run(longer, out=out, backend="inline", resume="auto")
    write_data(tmp_path, seed=0)
    simfl.run(longer, out=out, backend="inline", resume="auto")


@pytest.mark.parametrize("part", ["inputs", "targets", "client", "test_inputs"])
def test_any_part_of_the_data_counts(part: str, scenario: dict[str, Any], tmp_path: Path) -> None:
    arrays: dict[str, Any] = dict(np.load(tmp_path / "data.npz"))
    arrays |= {"test_inputs": arrays["inputs"].copy(), "test_targets": arrays["targets"]}
    digests = set()
    for changed in (False, True):
        if changed:
            arrays[part][[0, 5]] = arrays[part][[5, 0]]
        np.savez(tmp_path / "data.npz", **arrays)
        digests.add(load_scenario(scenario).build_dataset().digest())
    assert len(digests) == 2


PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar
from simfl.optimizer import Regularizer

@dataclass(frozen=True)
class {name}(Regularizer):
    name: ClassVar[str] = "{kind}"

    def run(self, gradients, weights, context):
        return gradients * {factor}
"""


def test_changed_code_is_reported(
    scenario: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plugin = tmp_path / "going_on_plugin.py"
    plugin.write_text(PLUGIN.format(name="Half", kind="going-on-half", factor=0.5))
    monkeypatch.setattr(sys, "path", [*sys.path])
    scenario |= {"plugins": ["going_on_plugin"], "search": [str(tmp_path)]}
    out = tmp_path / "out"
    simfl.run(scenario, out=out, backend="inline")
    simfl.run(scenario | {"rounds": 4}, out=out, backend="inline", resume="auto")
    assert "changed since" not in capsys.readouterr().err
    plugin.write_text(plugin.read_text().replace("0.5", "0.25"))
    simfl.run(scenario | {"rounds": 6}, out=out, backend="inline", resume="auto")
    said = " ".join(capsys.readouterr().err.split())
    assert "changed since the checkpoint of round 4: going_on_plugin; results may differ" in said
    simfl.run(scenario | {"rounds": 8}, out=out, backend="inline", resume="auto")
    assert "changed since" not in capsys.readouterr().err


def test_an_extended_run_is_evaluated_after_the_same_rounds_as_the_longer_run(
    tmp_path: Path,
) -> None:
    """Neither where its former last round is, which was evaluated as such and saved."""
    plain = {
        "rounds": 8,
        "data": {
            "source": "digits",
            "test_fraction": 0.2,
            "partition": {"kind": "iid", "clients": 4},
        },
        "model": {"kind": "logistic"},
        "client": {"batch_size": 64, "optimizer": {"lrate": 0.1}},
        "evaluation": {"every": 3, "clients_every": 4},
        "checkpoint": {"every": 5},
    }
    simfl.run(plain, out=tmp_path / "longer", backend="inline")
    out = tmp_path / "out"
    simfl.run(plain | {"rounds": 5}, out=out, backend="inline")
    with pytest.raises(KeyboardInterrupt):
        run_one_round(load_scenario(plain), out)
    simfl.resume(out, backend="inline")
    assert read(out) == read(tmp_path / "longer")


def run_one_round(scenario: Scenario, out: Path) -> None:
    with open_run(scenario, out, RunOptions("inline")) as run:
        next(run.rounds())
        raise KeyboardInterrupt


def read(folder: Path) -> tuple[Any, ...]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    table = pq.read_table(folder / "evaluations.parquet").to_pydict()
    return [RoundRecord.parse(json.loads(line)).reproducible for line in lines], table
