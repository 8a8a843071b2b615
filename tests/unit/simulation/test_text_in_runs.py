"""Text in whole runs: what clients do together against one client that has it all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simfl
from simfl.errors import ScenarioError
from simfl.simulation import build

ROWS = [
    {"q": "what is two?", "a": "2", "who": "ann"},
    {"q": "what is two and two?", "a": "four, of course", "who": "bob"},
    {"q": "and three?", "a": "six", "who": "bob"},
    {"q": "why", "a": "a longer answer than the others", "who": "cid"},
]


@pytest.fixture
def scenario(tmp_path: Path) -> dict[str, Any]:
    rows = [{**row, "all": "all"} for row in ROWS]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {
        "rounds": 1,
        "data": {
            "source": "text",
            "path": str(tmp_path / "rows.jsonl"),
            "prompt": "{q} ",
            "response": "{a}",
            "client": "who",
        },
        "model": {
            "kind": "char-lstm",
            "embedding": 4,
            "hidden": 8,
            "layers": 1,
            "loss": ["cross-entropy", {"over": "tokens"}],
        },
        "client": {"steps": 1, "optimizer": {"lrate": 0.5}},
        "server": {"weighting": "tokens"},
        "evaluation": {"clients_every": 1, "metrics": ["perplexity", "exact-match"]},
    }


def run(scenario: dict[str, Any], out: Path) -> simfl.Result:
    return simfl.run(scenario, out=out, backend="inline")


def test_clients_weighted_by_tokens_take_the_step_of_all_their_tokens(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    apart = run(scenario, tmp_path / "apart")
    scenario["data"]["client"] = "all"
    together = run(scenario, tmp_path / "together")
    for name, weight in together.weights.items():
        # Sums of float32 in another order, of gradients of about 1.
        np.testing.assert_allclose(apart.weights[name], weight, atol=1e-6)
    scenario["data"]["client"], scenario["server"] = "who", {"weighting": "examples"}
    other = run(scenario, tmp_path / "other")
    assert any(
        abs(other.weights[name] - weight).max() > 1e-3 for name, weight in together.weights.items()
    )


def test_the_perplexity_of_clients_is_the_exponential_of_their_loss(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    result = run(scenario, tmp_path / "out")
    line = result.history[-1]
    assert line["client_perplexity_count"] == 3
    worst, best = line["client_perplexity_worst"], line["client_perplexity_best"]
    assert worst == pytest.approx(np.exp(line["client_loss_worst"]))
    assert best == pytest.approx(np.exp(line["client_loss_best"]))


def test_notes_and_small_vocabularies_are_reported(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    scenario["data"]["max_tokens"] = 16
    note = build(simfl.load_scenario(scenario)).notes[0]
    assert "1 of 4 rows" in note
    assert note.endswith("within max_tokens (16) and are left out")
    scenario["model"]["vocabulary"] = 99
    with pytest.raises(ScenarioError, match="vocabulary is 99, but the data use 257 characters"):
        run(scenario, tmp_path / "small")


def test_examples_of_a_loss_over_tokens_are_not_clipped(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    scenario["client"]["sclip"] = 1.0
    with pytest.raises(ScenarioError, match=r"client\.sclip"):
        run(scenario, tmp_path / "out")


def test_a_model_of_fewer_positions_than_the_longest_example_is_refused(
    scenario: dict[str, Any], tmp_path: Path
) -> None:
    """Although it takes the first examples, which are all that is tried otherwise."""
    pytest.importorskip("transformers")
    rows = [*[{**row, "a": "2"} for row in ROWS] * 2, {"q": "?", "a": "2" * 60, "who": "ann"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = {"model_type": "gpt2", "vocab_size": 257, "n_embd": 4, "n_layer": 1, "n_head": 1}
    scenario["model"] = {"kind": "huggingface", "config": config | {"n_positions": 40}}
    says = r"model: the evaluation of the longest example fails.*lower data\.max_tokens"
    with pytest.raises(ScenarioError, match=says):
        build(simfl.load_scenario(scenario))
    scenario["data"]["max_tokens"] = 40
    build(simfl.load_scenario(scenario))
    metric = ["multiple-choice", {"choices": ["y" * 60, "no"]}]
    scenario["evaluation"] = {"clients_every": 1, "metrics": [metric]}
    with pytest.raises(ScenarioError, match=r"metrics.*: multiple-choice of the longest example"):
        build(simfl.load_scenario(scenario))
