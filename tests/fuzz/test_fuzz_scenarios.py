"""Scenarios: any text and any data either load, or end with one line per fault."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

import simfl
from simfl.errors import ScenarioError, SimflError
from simfl.scenario import Scenario, load_scenario, shipped_scenarios

from .fuzzing import altered, altered_tree, fuzzed, require_clear

pytestmark = pytest.mark.usefixtures("only_our_components")

SHIPPED: Final = {name: path.read_bytes() for name, path in shipped_scenarios().items()}
TREES: Final = {name: yaml.safe_load(text) for name, text in SHIPPED.items()}

WORDS: Final = (
    *(b"&a", b"*a", b"&a [*a]", b"<<: *a", b"<<: {a: 1}", b"? ", b"- ", b": ", b"{", b"}", b"["),
    *(b"---\n", b"...\n", b"%YAML 9.9\n", b"!!binary x", b"!!set {a}", b"!!int x", b"!x y", b"]"),
    *(b"!!python/object:os.system x", b"!!python/name:os.system", b"!!timestamp 2001-99-99"),
    *(b"2001-12-14", b"2001-99-99", b"0o7", b"0x", b"1_0", b"1:2:3", b".nan", b".inf", b"1e999"),
    *(b"9" * 5000, b"-", b"|\n", b">\n", b"'", b'"', b'"\\ud800"', b'"\\0"', b"\0", b"\xff", b"#"),
    *("\u2028".encode(), "\x85".encode(), b"\xef\xbb\xbf", b"\t", b"\r", b"!!omap [a: 1]"),
    *(b"[" * 2000, b"{a: " * 2000, b"- " * 2000, b"~: 1\n", b"1: 1\n", b"true: 1\n"),
    *(b"rounds: 1\n", b"seed: -1\n", b"name: a/b\n", b"client:\n", b"plugins: [x]\n"),
)


def loads(source: Any, **options: Any) -> Scenario | None:
    """Load without trust; check that the result is a scenario or a clear error."""
    try:
        return load_scenario(source, trust="none", **options)
    except ScenarioError as error:
        require_clear(error)
        return None


def require_same_again(scenario: Scenario, folder: Path) -> None:
    """See that the file in a run's folder says the same."""
    (folder / "again.yaml").write_text(scenario.to_yaml(), encoding="utf-8")
    again = load_scenario(folder / "again.yaml", trust="none")
    assert again == scenario
    assert again.fingerprint() == scenario.fingerprint()


@fuzzed(80)
@given(st.sampled_from(sorted(SHIPPED)).flatmap(lambda name: altered(SHIPPED[name], WORDS)))
def test_any_text(folder: Path, text: bytes) -> None:
    path = folder / "s.yaml"
    path.write_bytes(text)
    scenario = loads(path)
    if scenario is not None:
        require_same_again(scenario, folder)


@fuzzed(80)
@given(st.sampled_from(sorted(TREES)).flatmap(lambda name: altered_tree(TREES[name])))
def test_any_data(folder: Path, tree: Any) -> None:
    if not isinstance(tree, dict):
        return
    scenario = loads(tree)
    if scenario is not None:
        require_same_again(scenario, folder)


@fuzzed(12)
@given(
    st.sampled_from(["rounds", "client.optimizer", "client.optimizer.modules.0", "data.x", "seed"]),
    st.sampled_from([".", "=", "", "[0]", "[", ".0.0"]),
    st.text(max_size=8) | st.sampled_from([word.decode(errors="replace") for word in WORDS]),
)
@example("rounds", "", "9" * 5000)  # a number of more digits than Python reads
def test_any_override(key: str, more: str, value: str) -> None:
    loads(TREES["quickstart"], overrides=[f"{key}{more}={value}"])
    loads(TREES["quickstart"], overrides=[f"{value}={key}"])


SMALL: Final = {
    "rounds": 2,
    "data": {
        "source": "synthetic",
        "clients": 3,
        "features": 4,
        "classes": 3,
        "min_examples": 4,
        "max_examples": 9,
        "test_fraction": 0.2,
        "holdout_fraction": 0.2,
    },
    "model": {"kind": "mlp", "hidden": [5]},
    "client": {
        "per_round": 2,
        "epochs": 1,
        "batch_size": 4,
        "sclip": 1.0,
        "optimizer": {
            "lrate": ["cosine", {"base": 0.1, "length": 5}],
            "w_decay": 0.01,
            "regularizers": [["fedprox", {"alpha": 0.1}]],
            "modules": ["momentum", "scaffold-client"],
        },
    },
    "server": {
        "optimizer": {"lrate": 1.0, "modules": ["adam", "scaffold-server"]},
        "aggregator": {"kind": "mean"},
        "weighting": "steps",
    },
    "evaluation": {"every": 1, "clients_every": 2, "metrics": ["accuracy"], "batch_size": 3},
    "checkpoint": {"every": 1, "keep": 1},
}

MODEST: Final = (
    *(None, True, 0, 1, 2, 3, -1, 0.0, 0.5, 1.0, -0.5, 1e-30, 1e30, 1e308, "", "a", [], {}),
    *("adam", "yogi", "ewma", "iid", "dirichlet", "median", "krum", "trimmed-mean", "uniform"),
    *("mse", "huber", "mae", "logistic", "cnn-28", "resnet", "char-lstm", "weighted", "examples"),
    *(["l2-clipping"], ["adagrad", "rmsprop"], [["gaussian-noise", {"std": 1.0}]], ["lasso"]),
    *({"kind": "iid", "clients": 2}, {"kind": "shards", "clients": 2}, {"kind": "natural"}),
    *({"kind": "dirichlet", "clients": 2, "alpha": 0.1}, ["warm-up", {"base": 1.0, "length": 2}]),
    *(["piecewise", {"base": 0.1}], ["exponential", {"base": 0.1}], [["top-k", {"k": 9}]]),
)
"""No number is so large that a machine could not hold what it asks for."""


@fuzzed(30)
@given(altered_tree(SMALL, MODEST))
def test_what_loads_also_runs_or_says_why_not(
    tmp_path_factory: pytest.TempPathFactory, tree: Any
) -> None:
    scenario = loads(tree) if isinstance(tree, dict) else None
    if scenario is None or scenario.output.dir != "runs" or scenario.checkpoint.location:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = simfl.run(scenario, out=tmp_path_factory.mktemp("run"), backend="inline")
        except SimflError as error:
            require_clear(error)
            return
    assert [record["round"] for record in result.history] == list(range(1, scenario.rounds + 1))
