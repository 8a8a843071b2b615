"""Losses and metrics over tokens, against torch's mean over all of a batch.

Shapes: B examples, L positions, V words of the vocabulary, C clients.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from simfl.errors import ConfigError
from simfl.models import (
    Batch,
    CrossEntropy,
    ExactMatch,
    Perplexity,
    StackedModel,
    TokenAccuracy,
    TorchModel,
    as_loss,
)
from simfl.vector import Vector

# A float32 reduction in another order.
CLOSE = {"rtol": 1e-6, "atol": 1e-7}
OVER = CrossEntropy(over="tokens")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ragged_targets() -> Tensor:
    """Return targets [4, 6] below 5, of which 6, 2, 0 and 3 count."""
    targets = torch.randint(5, (4, 6), generator=torch.Generator().manual_seed(1))
    for row, (begin, end) in enumerate([(0, 6), (3, 5), (0, 0), (1, 4)]):
        targets[row, :begin] = targets[row, end:] = -100
    return targets


def token_model(loss: object = OVER) -> TorchModel:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5))
    return TorchModel(module, loss, metrics=["perplexity", "token-accuracy"])  # type: ignore[arg-type]


def test_over_tokens_is_the_mean_over_all_that_count() -> None:
    outputs, targets = random(4, 6, 5), ragged_targets()
    expected = F.cross_entropy(outputs.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(OVER.mean(outputs, targets), expected, **CLOSE)
    assert OVER.mean(outputs, torch.full((4, 6), -100)) == 0


def test_over_tokens_is_the_loss_of_transformers() -> None:
    """Which shifts labels itself, and so is given what comes before them, too."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=5, **sizes, **heads))
    tokens, targets = torch.arange(28).reshape(4, 7) % 5, ragged_targets()
    labels = F.pad(targets, (1, 0), value=-100)
    expected = model(input_ids=tokens, labels=labels).loss
    found = OVER.mean(model(tokens[:, :-1]).logits, targets)
    torch.testing.assert_close(found, expected, **CLOSE)


def test_sample_weights_weight_the_tokens() -> None:
    outputs, targets = random(4, 6, 5), ragged_targets()
    weights = torch.tensor([0.5, 2.0, 1.0, 0.0])
    losses = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
    tokens = (targets != -100) * weights[:, None]
    expected = (losses.reshape(4, 6) * tokens).sum() / tokens.sum()
    torch.testing.assert_close(OVER.mean(outputs, targets, weights), expected, **CLOSE)


@pytest.mark.parametrize("name", ["cross-entropy", "sam", "distillation"])
def test_gradients_of_a_step_are_those_of_torch(name: str) -> None:
    """SAM of a tiny radius, and a teacher with no strength, change nothing."""
    options: dict[str, dict[str, object]] = {
        "cross-entropy": {"over": "tokens"},
        "sam": {"of": OVER, "rho": 1e-12},
        "distillation": {"of": OVER, "strength": 0.0},
    }
    model = token_model(as_loss((name, options[name])))
    inputs, targets = torch.arange(24).reshape(4, 6) % 5, ragged_targets()
    loss, gradients = model.compute_loss_and_gradients(Batch(inputs, targets))
    expected = F.cross_entropy(model.module(inputs).flatten(0, 1), targets.flatten())
    wanted = torch.autograd.grad(expected, list(model.module.parameters()))
    torch.testing.assert_close(loss, expected.detach(), **CLOSE)
    for found, other in zip(gradients.tensors, wanted, strict=True):
        torch.testing.assert_close(found, other, **CLOSE)


def test_a_stack_gives_each_client_its_own_mean() -> None:
    """The second client has three examples; the fourth is padding of weight 0."""
    model = token_model()
    inputs = torch.randint(5, (2, 4, 6), generator=torch.Generator().manual_seed(2))
    targets = torch.stack([ragged_targets(), ragged_targets().flip(1)])
    weights = torch.tensor([[1.0] * 4, [4 / 3] * 3 + [0.0]])
    stack = StackedModel(model, 2)
    stack.begin(model.get_weights(), 2)
    losses, gradients = stack.compute_loss_and_gradients(Batch(inputs, targets, weights))
    alone = [
        model.compute_loss_and_gradients(Batch(inputs[c, :n], targets[c, :n]))
        for c, n in ((0, 4), (1, 3))
    ]
    torch.testing.assert_close(losses, torch.stack([loss for loss, _ in alone]), **CLOSE)
    rows = Vector.stack([own for _, own in alone])
    for name in rows:
        torch.testing.assert_close(gradients[name], rows[name], **CLOSE)


def test_examples_cannot_be_clipped_apart() -> None:
    batch = Batch(torch.zeros(4, 6, dtype=torch.int64), ragged_targets())
    with pytest.raises(ConfigError):
        token_model().compute_loss_and_gradients(batch, 1.0)


def test_evaluation_adds_up_over_batches_and_parts() -> None:
    model = token_model()
    batch = Batch(torch.arange(24).reshape(4, 6) % 5, ragged_targets())
    whole = model.evaluate(batch)
    outputs = model.module(batch.inputs).detach()
    expected = F.cross_entropy(outputs.flatten(0, 1), batch.targets.flatten()).item()
    assert whole["loss"] == pytest.approx((11 * expected, 11.0))
    assert whole["perplexity"] == pytest.approx((11 * expected, 11.0))
    right = (outputs.argmax(dim=-1) == batch.targets).sum().item()
    assert whole["token-accuracy"] == pytest.approx((right, 11.0))
    parts = model.evaluate_parts(batch, [1, 2, 1])
    assert [part["perplexity"][1] for part in parts] == [6.0, 2.0, 3.0]
    for name, (total, weight) in whole.items():
        sums = [part[name] for part in parts]
        assert (sum(t for t, _ in sums), sum(w for _, w in sums)) == pytest.approx((total, weight))


def test_perplexity_by_hand() -> None:
    """Tokens of probability 1/2, 1/2 and 1/4 have a geometric mean of 2^(-4/3)."""
    logits = torch.tensor([[[0.0, 0.0, -math.inf], [0.0, 0.0, math.log(2)]]] * 2)
    targets = torch.tensor([[0, 1], [1, -100]])
    sums = Perplexity().sums(logits, targets)
    assert Perplexity().finish(*sums) == pytest.approx(2 ** (4 / 3), rel=1e-6)


def greedy(module: nn.Module, prompt: list[int], steps: int) -> list[int]:
    """Generate by calling the module again and again."""
    tokens = list(prompt)
    for _ in range(steps):
        logits = module(torch.tensor([tokens]))
        tokens.append(int(logits[0, -1].argmax()))
    return tokens[len(prompt) :]


class Causal(nn.Module):
    """The logits of each position depend on all tokens up to it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embedding = nn.Embedding(6, 8)
        self.lstm = nn.LSTM(8, 16, batch_first=True)
        self.output = nn.Linear(16, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.output(self.lstm(self.embedding(tokens))[0])
        return logits


def test_exact_match_is_what_greedy_generation_gives() -> None:
    """The last response differs from what is generated in its middle, and not from there on."""
    module = Causal()
    rows, expected = [], []
    for first in range(6):
        prompt = [first, (first * 2) % 6, 1]
        response = greedy(module, prompt, 4)
        rows.append((prompt, response, True))
        wrong = [*response[:1], (response[1] + 1) % 6]
        rows.append((prompt, [*wrong, *greedy(module, [*prompt, *wrong], 2)], False))
    documents = torch.tensor([[*prompt, *response] for prompt, response, _ in rows])
    inputs, targets = documents[:, :-1], documents[:, 1:].clone()
    targets[:, :2] = -100
    found = ExactMatch().per_example(module(inputs), targets)
    expected = [float(is_right) for _, _, is_right in rows]
    assert found.tolist() == expected
    assert ExactMatch(max_new_tokens=4).per_example(module(inputs), targets).tolist() == expected
    assert ExactMatch(max_new_tokens=3).per_example(module(inputs), targets).sum() == 0


def test_token_accuracy_by_hand() -> None:
    logits = F.one_hot(torch.tensor([[0, 1, 2], [2, 2, 2]]), 3).float()
    targets = torch.tensor([[0, 1, 1], [-100, 2, -100]])
    assert TokenAccuracy().sums(logits, targets) == pytest.approx((3.0, 4.0))
    with pytest.raises(ConfigError, match="it compares sequences"):
        ExactMatch().per_example(logits[0], targets[0])
