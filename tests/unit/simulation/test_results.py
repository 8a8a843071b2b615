"""Result: tables, a plot, and the model."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import simfl
from simfl.errors import InputError, MissingExtraError

RNG = np.random.default_rng(1)
INPUTS = RNG.normal(size=(30, 4)).astype(np.float32)
TARGETS = (INPUTS.sum(axis=1) > 0).astype(np.int64)


def normed() -> torch.nn.Module:
    layers = torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2)
    return torch.nn.Sequential(*layers)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> simfl.Result:
    scenario = {
        "rounds": 3,
        "data": {"test_fraction": 0.2, "partition": {"kind": "iid", "clients": 4}},
        "client": {"per_round": 2, "batch_size": 3, "optimizer": {"lrate": 0.1}},
        "evaluation": {"every": 2},
    }
    out = tmp_path_factory.mktemp("result") / "<out>"
    return simfl.run(scenario, out, "inline", model=normed, data=(INPUTS, TARGETS))


def test_the_model_has_the_final_weights(result: simfl.Result) -> None:
    model = result.model()
    assert not model.training
    state = model.state_dict()
    assert state.keys() == result.weights.keys()
    for name, array in result.weights.items():
        np.testing.assert_array_equal(state[name].numpy(), array)
    assert result.model() is not model
    with pytest.raises(InputError, match="no model"):
        dataclasses.replace(result, simulation=None).model()


def test_tables_are_data_frames(result: simfl.Result) -> None:
    rounds = result.to_pandas()
    assert rounds.index.tolist() == [1, 2, 3]
    assert rounds["train_loss"].tolist() == [line["train_loss"] for line in result.history]
    assert rounds["accuracy"].isna().tolist() == [True, False, False]
    clients = result.clients()
    assert clients.groupby("round").size().tolist() == [2, 2, 2]
    assert {"client", "train_loss", "seconds"} <= set(clients)


def test_a_plot_has_a_line_for_each_number(
    result: simfl.Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    from matplotlib import pyplot

    lines = result.plot().get_lines()
    assert [line.get_label() for line in lines] == ["train_loss", "loss", "accuracy"]
    (line,) = result.plot("accuracy").get_lines()
    assert line.get_xdata().tolist() == [2, 3]
    with pytest.raises(InputError, match=r"no round has 'acuracy'\. Did you mean 'accuracy'\?"):
        result.plot("acuracy")
    pyplot.close("all")


def test_a_notebook_shows_a_table(result: simfl.Result) -> None:
    page = result._repr_html_()
    assert "done, 3 rounds" in page
    assert "&lt;out&gt;" in page
    assert f"<th>accuracy</th><td>{result.history[-1]['accuracy']:.4g}</td>" in page


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("pandas", simfl.Result.to_pandas),
        ("pandas", simfl.Result.clients),
        ("matplotlib.pyplot", simfl.Result.plot),
    ],
)
def test_without_an_optional_package_the_error_says_what_to_install(
    module: str, call: Any, result: simfl.Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'simfl\[report\]'"):
        call(result)


def test_a_run_without_the_clients_table_says_how_to_get_it(
    result: simfl.Result, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"run with output\.clients: true"):
        dataclasses.replace(result, out=tmp_path).clients()
