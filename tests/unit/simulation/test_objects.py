"""Objects of Python where a scenario has names."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from warm import WarmPython

import simfl
from simfl.aggregation import Median
from simfl.algorithms import IFCA, Algorithm
from simfl.data import Examples, FederatedDataset, SourceData
from simfl.errors import ConfigError, InputError, ScenarioError
from simfl.observers import Observer
from simfl.record import RoundRecord

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(24, 5)).astype(np.float32)
TARGETS = (INPUTS.sum(axis=1) > 0).astype(np.int64)
CLIENTS = np.repeat([0, 1, 2], [4, 8, 12])
REST: dict[str, Any] = {
    "rounds": 2,
    "client": {"batch_size": 4, "optimizer": {"lrate": 0.1}},
    "evaluation": {"clients_every": 1},
}
NAMED = REST | {
    "data": {"source": "python", "path": f"{__name__}:load"},
    "model": {"kind": "python", "path": f"{__name__}:Net"},
}


def load() -> dict[str, Any]:
    return {"inputs": INPUTS, "targets": TARGETS, "client": CLIENTS}


class Net(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2))


def numbers(result: simfl.Result) -> tuple[Any, ...]:
    weights = {name: array.tobytes() for name, array in result.weights.items()}
    return weights, [RoundRecord.parse(line).reproducible for line in result.history]


def run(out: Path, scenario: Any = REST, **how: Any) -> simfl.Result:
    return simfl.run(scenario, out=out, backend="inline", **how)


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    return numbers(run(tmp_path_factory.mktemp("named") / "out", NAMED))


DATA = {
    "three arrays": (INPUTS, TARGETS, CLIENTS),
    "tensors": tuple(map(torch.from_numpy, (INPUTS, TARGETS, CLIENTS))),
    "source data": SourceData(Examples(INPUTS, TARGETS), columns={"client": CLIENTS}),
    "a function": load,
    "a dict": load(),
}


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_data_as_objects_are_those_of_a_source(
    data: Any, named: tuple[Any, ...], tmp_path: Path
) -> None:
    assert numbers(run(tmp_path / "out", data=data, model=Net)) == named


def test_a_data_set_that_is_split_already_is_taken_as_it_is(
    named: tuple[Any, ...], tmp_path: Path
) -> None:
    offsets = np.array([0, 4, 12, 24])
    whole = FederatedDataset(Examples(INPUTS, TARGETS), np.arange(24), offsets, offsets[1:])
    scenario = {**NAMED, "data": {"source": "digits", "test_fraction": 0.5}}
    assert numbers(run(tmp_path / "out", scenario, data=whole)) == named


def test_a_data_set_of_torch_is_split_by_the_partition(tmp_path: Path) -> None:
    dataset = TensorDataset(torch.from_numpy(INPUTS), torch.from_numpy(TARGETS))
    scenario = REST | {"data": {"partition": {"kind": "iid", "clients": 4}}}
    one = run(tmp_path / "one", scenario, data=dataset, model=Net)
    other = run(tmp_path / "two", scenario, data=(INPUTS, TARGETS), model=Net)
    assert numbers(one) == numbers(other)
    assert one.history[-1]["clients"] == 4


@pytest.mark.parametrize("make", [lambda net: net, lambda net: lambda: net], ids=["itself", "made"])
def test_a_module_keeps_its_weights_and_is_not_trained_itself(make: Any, tmp_path: Path) -> None:
    """A loaded scenario, too: its own model's fields are gone, and its loss stays."""
    net = Net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    scenario = {**NAMED, "model": {"kind": "mlp", "hidden": [4], "loss": "cross-entropy"}}
    loaded = simfl.load_scenario(scenario)
    with simfl.federation(loaded, "inline", out=tmp_path / "out", model=make(net)) as fed:
        assert dict(fed.initial_weights().items()).keys() == before.keys()
        for name, tensor in fed.initial_weights().items():
            assert torch.equal(tensor, before[name])
        fed.train(fed.initial_weights(), [0, 1], round=1)
        fed.log(1)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())


def test_a_loss_an_algorithm_and_an_aggregator_as_objects(tmp_path: Path) -> None:
    named = {
        **NAMED,
        "algorithm": "halved",
        "model": {
            **NAMED["model"],
            "loss": {"kind": "python", "path": "torch.nn.functional:cross_entropy"},
        },
        "server": {"aggregator": "median"},
    }
    loss = lambda outputs, targets: nn.functional.cross_entropy(outputs, targets, reduction="none")  # noqa: E731
    given = run(tmp_path / "given", NAMED, loss=loss, algorithm=Halved(), aggregator=Median())
    assert numbers(given) == numbers(run(tmp_path / "named", named))


@dataclass(frozen=True)
class Halved(Algorithm):
    name: ClassVar[str] = "halved"

    def server(self, total: Any, state: Any, here: Any) -> Any:
        return total.delta * 0.5, state


def test_callbacks_get_each_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Functions and observers; one that fails is told of, and the run goes on."""
    seen: list[Any] = []

    class Watching(Observer):
        def on_run_end(self, summary: Any) -> None:
            seen.append(summary["status"])

    def fails(record: Any) -> None:
        raise ValueError(record["nothing"])

    calls = [lambda record: seen.append(record["round"]), fails, Watching()]
    run(tmp_path / "out", NAMED, callbacks=calls)
    assert seen == [1, 2, "done"]
    assert "callbacks[1] failed in round 1: KeyError: 'nothing'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="callbacks: 3 is neither a function"):
        run(tmp_path / "other", NAMED, callbacks=[3])


def test_a_run_with_objects_is_resumed_with_the_same_ones(tmp_path: Path) -> None:
    """Without them the error says what they were; other objects of the same form go on, too."""
    objects: dict[str, Any] = {"model": Net(), "data": (INPUTS, TARGETS, CLIENTS)}
    scenario = REST | {"checkpoint": {"every": 1}}
    whole = run(tmp_path / "whole", scenario, **objects)
    with simfl.run_by_round(scenario, tmp_path / "out", "inline", **objects) as begun:
        next(begun.rounds())
    assert begun.result.summary["status"] == "stopped"
    with pytest.raises(InputError) as caught:
        simfl.resume(tmp_path / "out", backend="inline")
    assert "notebook or script, which defines source '<given>:tuple', model '<given>:Net'" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)
    resumed = simfl.resume(tmp_path / "out", backend="inline", **objects)
    assert numbers(resumed) == numbers(whole)


SCRIPT = """
import sys
import simfl
from dataclasses import dataclass
from typing import ClassVar
from simfl.data import Source, SourceData, Examples
import numpy as np

@dataclass(frozen=True)
class Line(Source):
    name: ClassVar[str] = "line"
    def load(self, *, seed):
        x = np.linspace(-1, 1, 12, dtype=np.float32)[:, None]
        clients = {"client": np.arange(12) // 4}
        return SourceData(Examples(x, (x[:, 0] > 0).astype(int)), columns=clients)

def net():
    import torch
    return torch.nn.Linear(1, 2)

scenario = {"rounds": 3, "data": {"source": "line"}, "client": {"optimizer": {"lrate": 0.1}}}
with simfl.run_by_round(scenario, sys.argv[1], "inline", model=net) as run:
    next(run.rounds())
"""


def test_what_a_script_has_defined_is_named_in_one_line_when_it_is_resumed_elsewhere(
    tmp_path: Path, warm: WarmPython
) -> None:
    done = warm.run(SCRIPT, "script.py", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "run.json").read_text())["own"] == [
        ["source", "line"],
        ["model", "__main__:net"],
    ]
    with pytest.raises(InputError, match=r"defines source 'line', model 'net'; resume it there"):
        simfl.resume(tmp_path / "out", backend="inline")


def test_an_unknown_argument_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no argument 'rounds': objects are model, .*overrides="):
        simfl.run("quickstart", tmp_path / "out", "inline", rounds=3)  # type: ignore[call-arg]
    assert not (tmp_path / "out").exists()


def test_what_is_no_model_is_refused_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"model: .*'<given>:int' is not a function"):
        run(tmp_path / "out", NAMED, model=3)
    with pytest.raises(InputError, match="data returned a int"):
        run(tmp_path / "out", NAMED, data=3)
    with pytest.raises(InputError, match=r"'ifca' needs several initial weights.*give its class"):
        run(tmp_path / "out", NAMED, model=Net(), algorithm=IFCA(models=2))
