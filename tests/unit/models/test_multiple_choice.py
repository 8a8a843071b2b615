"""Multiple choice, against one call of the model for each example and choice.

Shapes: B examples, L positions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from test_tokens import Causal
from torch import Tensor, nn

import simfl
from simfl.client.batches import read_batch
from simfl.data import Text
from simfl.data.text import Bytes
from simfl.data.text.documents import answers
from simfl.data.text.tokenizers import Tokens
from simfl.errors import ConfigError, DataError, ScenarioError
from simfl.models import Batch, MultipleChoice, TorchModel

CHOICES = [(1,), (2, 3), (4, 4, 0)]
END = 5
PROMPTS = [[0, 1], [2, 2, 2, 4], [3], [1, 5, 0], [4, 0, 0, 0, 1], [2]]


def letters(text: str) -> list[int]:
    return [int(letter) for letter in text]


def alone(module: nn.Module, prompt: list[int], choice: tuple[int, ...]) -> float:
    """Return the log-likelihood of a choice after a prompt."""
    logits = module(torch.tensor([[*prompt, *choice]]))[0].log_softmax(dim=-1).detach()
    places = range(len(prompt) - 1, len(prompt) + len(choice) - 1)
    return sum(float(logits[at, token]) for at, token in zip(places, choice, strict=True))


def batch_of(responses: list[list[int]]) -> Batch:
    """Return prompts with responses, padded as text is."""
    documents = [[*prompt, *own] for prompt, own in zip(PROMPTS, responses, strict=True)]
    inputs, targets = torch.full((6, 8), END), torch.full((6, 8), -100)
    for row, document in enumerate(documents):
        length, before = len(document) - 1, len(PROMPTS[row]) - 1
        inputs[row, :length] = torch.tensor(document[:-1])
        targets[row, before:length] = torch.tensor(document[1 + before :])
    return Batch(inputs, targets)


@pytest.mark.parametrize("by_length", [False, True])
def test_the_most_likely_choice_is_compared_with_the_response(by_length: bool) -> None:
    """Of six responses the first five are choices, one after another, and the last is none."""
    module = Causal()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(3)  # so that choices differ
    responses = [[*CHOICES[row % 3], END] for row in range(5)] + [[1, 1, END]]
    responses[1] = [*CHOICES[1]]  # cut off, without its end
    metric = MultipleChoice(("1", "23", "440"), by_length).for_tokenizer(letters)
    model = TorchModel(module, metrics=[metric])
    expected = []
    for row, prompt in enumerate(PROMPTS):
        scores = [alone(module, prompt, own) / (len(own) if by_length else 1) for own in CHOICES]
        expected.append(float(row < 5 and scores.index(max(scores)) == row % 3))
    assert 0 < sum(expected) < 5
    batch = batch_of(responses)
    assert model.evaluate(batch)["multiple-choice"] == (sum(expected), 6.0)
    parts = model.evaluate_parts(batch, [1] * 6)
    assert [part["multiple-choice"][0] for part in parts] == expected


def test_choices_of_each_example_are_those_of_a_loop_with_transformers(tmp_path: Path) -> None:
    """Two to four choices of several lengths, twice the same, and a model of the library."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(2)
    size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 257, "n_positions": 32}
    module = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(initializer_range=0.5, bos_token_id=256, eos_token_id=256, **size)
    ).eval()
    wrong = [["no", "maybe"], ["3"], ["red", "blue", "no", "yes"], ["12", "123"], ["a", "a"]] * 4
    rows = [
        {"q": "why? " * (row % 3) + str(row), "a": own[row % len(own)], "options": [*own, "yes"]}
        for row, own in enumerate(wrong)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    for by_length in (False, True):
        expected = []
        for row in rows:
            scores = []
            for choice in row["options"]:
                prompt, answer = list(f"{row['q']}:".encode()), list(f" {choice}".encode())
                with torch.no_grad():
                    logits = module(torch.tensor([[*prompt, *answer]])).logits[0]
                places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
                logs = logits.log_softmax(dim=-1)
                total = sum(float(logs[t, token]) for t, token in zip(places, answer, strict=True))
                scores.append(total / (len(answer) if by_length else 1))
            best = row["options"][scores.index(max(scores))]
            expected.append(float(best == row["a"]))
        data = Text(
            path=str(path), prompt="{q}:", response=" {a}", choices=" {options}", max_tokens=24
        ).load(seed=0)
        metric = MultipleChoice(by_length=by_length).for_tokenizer(data.encode)
        model = TorchModel(module, metrics=[metric])
        parts = model.evaluate_parts(read_batch(data.train, np.arange(20)), [1] * 20)
        assert [part["multiple-choice"][0] for part in parts] == expected
        assert 0 < sum(expected) < 20


def test_it_needs_a_tokenizer_and_choices_with_tokens() -> None:
    with pytest.raises(ConfigError, match="needs the tokenizer of source: text"):
        MultipleChoice(("a", "b")).for_tokenizer(None)
    with pytest.raises(ConfigError, match="the choice '' has no token"):
        MultipleChoice(("1", "")).for_tokenizer(letters)


def test_a_scenario_measures_it(tmp_path: Path) -> None:
    """The answer follows from the last letter of the question, which is soon learnt."""
    rows = [{"q": "xyz"[i % 3] + "ab"[i % 2], "a": ["yes", "no"][i % 2]} for i in range(24)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    metric = ["multiple-choice", {"choices": ["yes", "no"]}]
    scenario = {
        "rounds": 4,
        "data": {
            "source": "text",
            "path": str(path),
            "prompt": "{q}",
            "response": "{a}",
            "tokenizer": "characters",
            "test_fraction": 0.25,
            "partition": {"kind": "iid", "clients": 2},
        },
        "model": {"kind": "char-lstm", "hidden": 16, "layers": 1},
        "client": {"steps": 10, "optimizer": {"lrate": 0.05, "modules": ["adam"]}},
        "evaluation": {"metrics": [metric, "exact-match"], "every": 4},
    }
    result = simfl.run(scenario, out=tmp_path / "out", backend="inline")
    assert result.history[-1]["multiple-choice"] == 1.0
    assert result.history[-1]["exact-match"] == 1.0
    metric[1] = {}
    with pytest.raises(ScenarioError, match=r"metrics: multiple-choice has no choices: set its"):
        simfl.run(scenario, out=tmp_path / "none", backend="inline")
    scenario["data"]["choices"] = ["yes", "no"]
    own = simfl.run(scenario, out=tmp_path / "own", backend="inline")
    assert own.history[-1]["multiple-choice"] == 1.0
    del scenario["data"]["choices"]
    metric[1] = {"choices": ["yes", "maybe"]}
    with pytest.raises(ScenarioError, match=r"evaluation\.metrics: the character 'm' does not"):
        simfl.run(scenario, out=tmp_path / "other", backend="inline")


def test_tokens_must_be_one_array() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Embedding(6, 6)

        def forward(self, a: Tensor) -> Tensor:
            logits: Tensor = self.layer(a)
            return logits

    metric = MultipleChoice(("1", "2")).for_tokenizer(letters)
    model = TorchModel(Two(), metrics=[metric])
    with pytest.raises(ConfigError, match="needs one array of tokens"):
        model.evaluate(Batch({"a": torch.zeros(2, 3).long()}, torch.zeros(2, 3).long()))


def test_a_choice_without_a_token_is_refused() -> None:
    """It would never be chosen."""

    class Words(Bytes):
        def encode(self, texts: Sequence[str]) -> Tokens:
            return super().encode([text.strip() for text in texts])

    with pytest.raises(DataError, match="the choice ' ' has no token"):
        answers(["q"], ["a"], Words(), max_tokens=8, choices=[["a", " "]])
