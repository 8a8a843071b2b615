"""model.fixed: weights that are neither trained, nor sent, nor stored."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

import simfl
from simfl.checkpoint import latest_checkpoint, write_checkpoint
from simfl.errors import CheckpointError, ConfigError, ScenarioError
from simfl.simulation import build
from simfl.states import open_storage

SCALE = {"weights": 1.0}


def grow(layer: nn.Module, _: Any) -> None:
    """Change frozen weights in training."""
    if layer.training:
        layer.weight.data += 1.0


def net(drawn: bool = False, frozen: bool = False, grows: bool = False) -> nn.Module:
    """Return a network of two layers and a norm."""
    body = nn.Linear(64, 6)
    with torch.no_grad():
        body.weight *= SCALE["weights"]
    if drawn:
        with torch.no_grad():
            body.bias.copy_(torch.from_numpy(np.random.default_rng().normal(size=6)))
    if frozen:
        body.requires_grad_(False)
    layers = (nn.Flatten(), body, nn.BatchNorm1d(6), nn.Linear(6, 10))
    if grows:
        body.register_forward_pre_hook(grow)
    return nn.Sequential(*layers)


def scenario(**model: Any) -> dict[str, Any]:
    """Return a scenario of this model."""
    return {
        "rounds": 2,
        "data": {
            "source": "digits",
            "test_fraction": 0.2,
            "partition": {"kind": "iid", "clients": 4},
        },
        "model": {"kind": "python", "path": f"{__name__}:net", **model},
        "client": {"per_round": 3, "batch_size": 16, "optimizer": {"lrate": 0.1}},
        "checkpoint": {"every": 1},
    }


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def test_fixed_weights_are_in_no_message_no_checkpoint_and_no_file(tmp_path: Path) -> None:
    """The head has 6 * 10 weights and 10 biases of 4 bytes."""
    result = simfl.run(scenario(fixed=["1", "norm"]), out=tmp_path / "run", backend="inline")
    assert [record["sent_bytes"] for record in result.history] == [3 * 280, 3 * 280]
    assert [record["received_bytes"] for record in result.history] == [3 * 280, 3 * 280]
    assert list(load_file(tmp_path / "run" / "weights.safetensors")) == ["3.bias", "3.weight"]
    assert result.weights.keys() == {"3.weight", "3.bias"}
    found = latest_checkpoint(open_storage(tmp_path / "run" / "checkpoints"))
    assert found.checkpoint is not None
    assert set(found.checkpoint.weights.names) == {"3.weight", "3.bias"}


def test_training_a_head_on_fixed_features_is_training_it_alone(tmp_path: Path) -> None:
    """One client and full batches: torch's own steps on the head of the same network."""
    changed = scenario(fixed=["1", "norm"])
    changed["data"]["partition"]["clients"] = 1
    changed["client"] = {"steps": 2, "batch_size": None, "optimizer": {"lrate": 0.1}}
    simulation = build(simfl.load_scenario(changed))
    result = simfl.run(changed, out=tmp_path / "run", backend="inline")
    module = simulation.server.build_model().module.eval()
    data = simulation.dataset
    rows = data.train_rows(0)
    inputs, targets = torch.tensor(data.train.inputs[rows]), torch.tensor(data.train.targets[rows])
    head = module[3]
    for _ in range(4):
        loss = nn.functional.cross_entropy(module(inputs), targets)
        for parameter, gradient in zip(
            head.parameters(), torch.autograd.grad(loss, [*head.parameters()]), strict=True
        ):
            with torch.no_grad():
                parameter -= 0.1 * gradient
    np.testing.assert_allclose(result.weights["3.weight"], head.weight.detach(), atol=1e-6)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"fixed": ["4"]}, "model.fixed: names '4', but the model has no such weight or layer. It"),
        ({"fixed": ["*"]}, "model.fixed: names every weight that is trained"),
        ({"fixed": ["1"], "personal": ["1"]}, "model.personal: names '1.weight', and so does"),
        ({"personal": ["1", "2", "3"]}, "model.personal: names every weight that is trained, so"),
        ({"fixed": ["1"], "arguments": {"drawn": True}}, "model: '1.bias' differs each time"),
        ({"personal": ["1"], "arguments": {"drawn": True}}, "model: '1.bias' differs each time"),
        (
            {"arguments": {"frozen": True, "drawn": True}},
            "model: '1.bias' differs each time the model is built, and the server does not send it",
        ),
        ({"arguments": {"frozen": True}, "personal": ["1"]}, "names '1.weight', which is frozen"),
        (
            {"arguments": {"frozen": True, "grows": True}},
            "model: '1.weight' is frozen (requires_grad is False), but a step of training changes",
        ),
    ],
)
def test_names_that_do_not_fit_are_one_line_before_the_start(
    model: dict[str, Any], message: str
) -> None:
    with pytest.raises(ScenarioError) as error:
        build(simfl.load_scenario(scenario(**model)))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_personal_weights_need_kept_states() -> None:
    changed = scenario(personal=["3"])
    changed["client"]["keep_state"] = False
    with pytest.raises(ScenarioError, match=r"client.keep_state: is false, but each client must"):
        simfl.load_scenario(changed)


def test_a_host_with_other_weights_than_the_drivers_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = build(simfl.load_scenario(scenario(fixed=["1"]))).client
    client.initial_personal(client.build_model())
    monkeypatch.setitem(SCALE, "weights", 2.0)
    with pytest.raises(ConfigError, match=r"'1.weight' is built with other values here than"):
        client.initial_personal(client.build_model())


def test_a_run_does_not_go_on_with_other_fixed_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scenario(fixed=["1"])
    simfl.run(first, out=tmp_path / "run", backend="inline")
    monkeypatch.setitem(SCALE, "weights", 2.0)
    with pytest.raises(CheckpointError, match=r"other initial values of '1.weight'"):
        simfl.run(first | {"rounds": 3}, out=tmp_path / "run", backend="inline", resume="auto")


def test_weights_that_the_module_freezes_are_fixed(tmp_path: Path) -> None:
    """The norm and the head have 2 * 6, 6 * 10 and 10 weights, two averages, and a count."""
    named = simfl.run(scenario(fixed=["1"]), out=tmp_path / "named", backend="inline")
    frozen = scenario(arguments={"frozen": True})
    result = simfl.run(frozen, out=tmp_path / "frozen", backend="inline")
    assert [record["sent_bytes"] for record in result.history] == [3 * (94 * 4 + 8)] * 2
    assert result.weights.keys() == named.weights.keys()
    assert not any(name.startswith("1.") for name in result.weights)
    for name, value in named.weights.items():
        assert np.array_equal(value, result.weights[name])


def test_a_checkpoint_with_frozen_weights_as_they_used_to_be_saved_is_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = scenario(arguments={"frozen": True})
    whole = simfl.run(frozen | {"rounds": 3}, out=tmp_path / "whole", backend="inline")
    first = build(simfl.load_scenario(frozen))
    for run in ("same", "other"):
        simfl.run(frozen, out=tmp_path / run, backend="inline")
        storage = open_storage(tmp_path / run / "checkpoints")
        saved = latest_checkpoint(storage).checkpoint
        assert saved is not None
        positions = {key: value for key, value in saved.positions.items() if key != "unsent"}
        weights = saved.weights | first.server.build_model().fixed_weights
        assert "1.weight" in weights
        former = dataclasses.replace(saved, weights=weights, positions=positions)
        write_checkpoint(storage, former, shards=())
    longer = frozen | {"rounds": 3}
    result = simfl.run(longer, out=tmp_path / "same", backend="inline", resume="auto")
    for name, value in whole.weights.items():
        assert np.array_equal(value, result.weights[name])
    monkeypatch.setitem(SCALE, "weights", 2.0)
    with pytest.raises(CheckpointError, match=r"other initial values of '1.weight'"):
        simfl.run(longer, out=tmp_path / "other", backend="inline", resume="auto")
