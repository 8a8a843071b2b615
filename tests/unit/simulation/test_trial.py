"""What cannot work is reported before anything starts, with the line of the user's code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import simfl
from simfl.cli.main import app
from simfl.errors import ScenarioError
from simfl.optimizer import Context, OptiModule, State
from simfl.simulation import build
from simfl.vector import Vector


def scenario(folder: Path, *, sizes: tuple[int, ...] = (4, 8, 12), **changes: Any) -> Any:
    num = sum(sizes)
    inputs = np.random.default_rng(0).normal(size=(num, 5)).astype(np.float32)
    clients = np.repeat(np.arange(len(sizes)), sizes)
    np.savez(folder / "data.npz", inputs=inputs, targets=inputs.sum(axis=1), client=clients)
    written: dict[str, Any] = {
        "rounds": 1,
        "data": {"source": "npz", "path": str(folder / "data.npz")},
        "model": {"kind": "python", "path": f"{__name__}:column", "loss": "mse"},
        "client": {"batch_size": 4, "optimizer": {"lrate": 0.1}},
        "evaluation": {"every": 0},
    }
    for key, value in changes.items():
        written[key] = {**written.get(key, {}), **value} if isinstance(value, dict) else value
    return simfl.load_scenario(written)


def column() -> nn.Module:
    return nn.Linear(5, 1)


def normed() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 1))


class Tripping(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            raise ValueError("a wire\nis loose")
        return super().forward(inputs)


def tripping() -> nn.Module:
    return Tripping(5, 1)


def unreduced(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets) ** 2


def spread_out(outputs: Tensor, targets: Tensor) -> Tensor:
    return unreduced(outputs, targets).mean(-1)


def squeezed(outputs: Tensor, targets: Tensor) -> Tensor:
    return unreduced(outputs.squeeze(-1), targets)


@dataclass(frozen=True)
class Stumbling(OptiModule):
    """Fails at each step."""

    name: ClassVar[str] = "stumbling-in-a-trial"

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        raise RuntimeError("not there yet")


def test_a_loss_that_mixes_a_column_with_a_row_is_refused(tmp_path: Path) -> None:
    loss = {"kind": "python", "path": f"{__name__}:unreduced"}
    with pytest.raises(ScenarioError, match=r"model\.loss: .*returned \[7, 7\] .*squeeze\(-1\)"):
        build(scenario(tmp_path, model={"loss": loss}))


@pytest.mark.parametrize("kind", [{"kind": "logistic"}, {"path": f"{__name__}:column"}])
def test_a_single_class_is_refused(tmp_path: Path, kind: dict[str, Any]) -> None:
    """Its loss is always 0, and its one output would be a logit to accuracy: wrong if positive."""
    inputs = np.ones((8, 5), np.float32)
    np.savez(tmp_path / "one.npz", inputs=inputs, targets=np.zeros(8, int), client=[0, 1] * 4)
    written = {
        "rounds": 1,
        "data": {"source": "npz", "path": str(tmp_path / "one.npz")},
        "model": {"kind": "python", "loss": "cross-entropy", **kind},
        "client": {"optimizer": {"lrate": 0.1}, "on_failure": "drop"},
    }
    with pytest.raises(
        ScenarioError, match=r"model\.loss: .* a single class, .* or bce-with-logits"
    ):
        build(simfl.load_scenario(written))


class Renewing(nn.Linear):
    """Assigns a new parameter with each call, which nothing would train."""

    def __init__(self) -> None:
        super().__init__(5, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        self.bias = nn.Parameter(self.bias.detach() * 0.9)
        return super().forward(inputs)


def test_a_module_that_replaces_its_parameters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="model: 'bias' is another Parameter after a call"):
        build(scenario(tmp_path, model={"path": f"{__name__}:Renewing"}))


class Centring(nn.Linear):
    """Keeps a running mean of its inputs, as BatchNorm does, under no known name."""

    def __init__(self, *, persistent: bool = True) -> None:
        super().__init__(5, 1)
        self.register_buffer("mean", torch.zeros(5), persistent=persistent)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * inputs.detach().mean(0)
        return super().forward(inputs - self.mean)


def centring_for_itself() -> nn.Module:
    return Centring(persistent=False)


@pytest.mark.parametrize(
    ("net", "buffer"),
    [("Centring", "mean"), ("centring_for_itself", "mean"), ("normed", "0.running_mean")],
)
def test_buffers_that_training_changes_are_refused_with_clipping(
    net: str, buffer: str, tmp_path: Path
) -> None:
    """What one example adds to them is bounded by nothing."""
    changes: dict[str, Any] = {"model": {"path": f"{__name__}:{net}"}}
    build(scenario(tmp_path, **changes))
    with pytest.raises(ScenarioError, match=rf"client\.sclip.*changes the buffer '{buffer}'"):
        build(scenario(tmp_path, client={"sclip": 0.5}, **changes))


@pytest.mark.parametrize(
    ("net", "why"),
    [
        ("Centring", "training changes the buffer 'mean'"),
        ("normed", r"layer '0' \(BatchNorm1d\) works with statistics of the batch"),
    ],
)
def test_what_a_batch_as_a_whole_changes_is_refused_in_micro_batches(
    net: str, why: str, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"model": {"path": f"{__name__}:{net}"}}
    with pytest.raises(ScenarioError, match=rf"client\.accumulate: is 2, but {why}"):
        build(scenario(tmp_path, client={"accumulate": 2}, **changes))


@pytest.mark.parametrize(("net", "buffer"), [("Centring", "mean"), ("normed", "0.running_mean")])
def test_buffers_that_training_changes_are_refused_where_an_algorithm_takes_the_steps(
    net: str, buffer: str, tmp_path: Path
) -> None:
    written = scenario(tmp_path, model={"path": f"{__name__}:{net}"}).to_dict()
    told = rf"algorithm: 'apfl' takes steps of its own.* changes the model's '{buffer}'; use Group"
    with pytest.raises(ScenarioError, match=told):
        build(simfl.load_scenario({**written, "algorithm": "apfl"}))
    build(simfl.load_scenario({**written, "algorithm": "ditto"}))


def test_an_error_of_a_module_in_training_comes_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError) as told:
        build(scenario(tmp_path, model={"path": f"{__name__}:tripping"}))
    (line,) = told.value.faults
    assert "model: a first step of training fails: ValueError: a wire is loose" in line
    number = Tripping.forward.__code__.co_firstlineno + 2
    assert line.endswith(f" ({__file__}, line {number}, in forward)")
    assert isinstance(told.value.__cause__, ValueError)


def test_an_error_of_a_plug_in_comes_with_its_line(tmp_path: Path) -> None:
    client = {"optimizer": {"lrate": 0.1, "modules": [Stumbling.name]}}
    with pytest.raises(ScenarioError, match=r"RuntimeError: not there yet \(.*, in update\)"):
        build(scenario(tmp_path, client=client))


def test_the_second_round_of_an_algorithm_is_tested_too(tmp_path: Path) -> None:
    """Mime's first round only gathers gradients."""
    written = scenario(tmp_path, client={"sclip": 1.0})
    with pytest.raises(ScenarioError) as caught:
        build(simfl.load_scenario({**written.to_dict(), "algorithm": "mime"}))
    assert "a first step of training fails: client.sclip clips each" in caught.value.faults[0]


def test_clients_that_may_fail_are_not_tested_before_the_run(tmp_path: Path) -> None:
    build(scenario(tmp_path, model={"path": f"{__name__}:tripping"}, client={"on_failure": "drop"}))


def test_a_trial_leaves_torchs_generator_and_the_weights_as_they_were(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    simulation = build(scenario(tmp_path))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert simulation.client.build_model().get_weights() == (
        simulation.server.build_model().get_weights()
    )


@pytest.mark.parametrize(
    ("sizes", "client", "is_fault"),
    [
        ((4, 9, 12), {}, True),  # 4 + 4 + 1
        ((4, 9, 12), {"drop_last": True}, False),
        ((4, 9, 12), {"steps": 2}, False),  # the third batch is not reached
        ((4, 9, 12), {"steps": 3}, True),
        ((4, 8, 12), {}, False),
        ((4, 9, 12), {"batch_size": None}, False),
    ],
)
def test_a_batch_of_one_with_batch_norm_is_refused_with_the_remedy(
    sizes: tuple[int, ...], client: dict[str, Any], is_fault: bool, tmp_path: Path
) -> None:
    model = {"path": f"{__name__}:normed"}
    if not is_fault:
        simfl.run(
            scenario(tmp_path, sizes=sizes, model=model, client=client),
            out=tmp_path / "out",
            backend="inline",
        )
        return
    with pytest.raises(
        ScenarioError,
        match=rf"client\.batch_size: client 1 has {sizes[1]} examples.*ValueError.*drop_last: true",
    ) as told:
        build(scenario(tmp_path, sizes=sizes, model=model, client=client))
    assert str(told.value).count(";") == 1


@pytest.mark.parametrize("size", [1, 4])
def test_a_batch_size_of_one_is_to_be_raised(size: int, tmp_path: Path) -> None:
    """Clients of one example take single ones whatever it is."""
    given = scenario(
        tmp_path,
        sizes=(4, size, 12),
        model={"path": f"{__name__}:normed"},
        client={"batch_size": 1},
    )
    with pytest.raises(
        ScenarioError, match=r"client\.batch_size: is 1, .*ValueError.*; raise it, or .* GroupNorm"
    ) as told:
        build(given)
    assert str(told.value).count(";") == 1
    assert "drop_last" not in str(told.value)


def test_a_failure_at_any_batch_size_does_not_blame_the_size(tmp_path: Path) -> None:
    model = {"path": f"{__name__}:tripping"}
    with pytest.raises(ScenarioError, match="model: a first step of training fails"):
        build(scenario(tmp_path, model=model, client={"batch_size": 1}))


@pytest.mark.parametrize("sizes", [(4, 1, 12), (1, 1, 1)])
def test_a_client_of_one_example_is_to_get_two(sizes: tuple[int, ...], tmp_path: Path) -> None:
    given = scenario(
        tmp_path,
        sizes=sizes,
        model={"path": f"{__name__}:normed"},
        client={"drop_last": True},
    )
    with pytest.raises(
        ScenarioError, match=r"data: client \d has 1 example, .*; give each client two examples"
    ) as told:
        build(given)
    assert "drop_last" not in str(told.value)


def test_a_partition_is_to_give_each_client_two_examples(tmp_path: Path) -> None:
    data = {"partition": {"kind": "quantity", "clients": 12, "alpha": 0.3}}
    given = scenario(
        tmp_path,
        model={"path": f"{__name__}:normed"},
        client={"drop_last": True},
        data=data,
    )
    with pytest.raises(ScenarioError, match=r"; set data\.partition\.min_examples: 2"):
        build(given)


@pytest.mark.parametrize("stack", [1, 2])
def test_a_loss_that_mixes_the_examples_of_a_batch_is_noted_once(
    stack: int, tmp_path: Path
) -> None:
    """[B, 1] - [B] is [B, B], whose mean over the last axis has the shape that it is to have."""
    loss = {"kind": "python", "path": f"{__name__}:spread_out"}
    notes = build(scenario(tmp_path, model={"loss": loss}, client={"stack": stack})).notes
    (note,) = (note for note in notes if "spread_out" in note)
    assert "depend on the other examples in the batch" in note
    assert note.endswith("outputs are [B, 1] and targets [B]: squeeze(-1) the outputs")
    squeezed = {"kind": "python", "path": f"{__name__}:squeezed"}
    assert build(scenario(tmp_path, model={"loss": squeezed}, client={"stack": stack})).notes == ()


@pytest.mark.parametrize(
    ("algorithm", "model", "client", "says"),
    [
        ("scaffold", "normed", {}, "gradients over all examples with the running averages of"),
        ("scaffold", "column", {}, None),
        ("fedavg", "normed", {}, None),
        ("fednova", "column", {}, None),
        ("fednova", "column", {"modules": ["adam"]}, "modules and regularizers are others"),
        ("fednova", "column", {"regularizers": ["fedprox"]}, "modules and regularizers are others"),
        ("fednova", "column", {"regularizers": ["ridge"]}, None),
        ("fednova", "column", {"modules": ["momentum"]}, "momentum is 0.9; set algorithm.rho to"),
        (["fednova", {"rho": 0.9}], "column", {}, "momentum 0.9, but the clients' momentum is 0"),
        (["fednova", {"rho": 0.9}], "column", {"modules": ["momentum"]}, "keep_state: false"),
    ],
)
def test_what_an_algorithm_does_not_count_on_is_noted(
    algorithm: Any, model: str, client: dict[str, Any], says: str | None, tmp_path: Path
) -> None:
    given = scenario(
        tmp_path,
        algorithm=algorithm,
        model={"path": f"{__name__}:{model}"},
        client={"optimizer": {"lrate": 0.1, **client}},
        server={"weighting": "uniform"} if algorithm == "scaffold" else {},
    )
    notes = build(given).notes
    assert (says is None) == (notes == ())
    assert says is None or says in notes[0]


@pytest.mark.parametrize(
    ("data", "evaluation", "noted"),
    [
        ({}, {"every": 1}, True),
        ({}, {"every": 0}, False),
        ({}, {"every": 1, "clients_every": 1}, False),
        ({"test_fraction": 0.2}, {"every": 1}, False),
    ],
)
def test_metrics_without_examples_to_measure_them_on_are_noted(
    data: dict[str, Any], evaluation: dict[str, Any], noted: bool, tmp_path: Path
) -> None:
    given = scenario(tmp_path, data=data, evaluation={**evaluation, "metrics": ["mse"]})
    notes = build(given).notes
    assert len(notes) == noted
    assert not noted or "set data.test_fraction" in notes[0]


def test_torch_does_not_warn_of_broadcasting_before_the_fault(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    loss = {"kind": "python", "path": "torch.nn.functional:mse_loss"}
    with pytest.raises(ScenarioError, match=r"model\.loss: a first evaluation fails: .*squeeze"):
        build(scenario(tmp_path, model={"loss": loss}))
    assert not recwarn.list


def test_targets_that_the_loss_does_not_take_are_reported_under_its_key() -> None:
    given = {
        "rounds": 1,
        "data": {"source": "digits", "partition": {"kind": "iid", "clients": 4}},
        "model": {"kind": "logistic", "loss": "bce-with-logits"},
        "client": {"optimizer": {"lrate": 0.1}},
    }
    with pytest.raises(ScenarioError, match=r"model\.loss: bce-with-logits: targets are integers"):
        build(simfl.load_scenario(given))


def test_the_command_line_shows_the_line_and_the_traceback(tmp_path: Path) -> None:
    given = scenario(tmp_path, model={"path": f"{__name__}:tripping"})
    (tmp_path / "scenario.yaml").write_text(given.to_yaml())
    for command in (["validate"], ["run", "--backend", "inline", "--out", str(tmp_path / "out")]):
        told = CliRunner().invoke(app, [*command, str(tmp_path / "scenario.yaml")])
        assert told.exit_code == 2
        assert "a first step of training fails: ValueError: a wire is loose" in told.output
        assert 'raise ValueError("a wire\\nis loose")' in told.output
    assert not (tmp_path / "out").exists()
