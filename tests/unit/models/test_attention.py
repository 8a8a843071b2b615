"""Self-attention in less time: torch's own bits, and everything else left to torch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from simfl.models import Batch, TorchModel
from simfl.models.attention import _SelfAttention
from simfl.models.model import Precision

T, D, H = 5, 12, 3
CAUSAL = nn.Transformer.generate_square_subsequent_mask(T)


class Tokens(nn.Module):
    """Embeds tokens, has some layers work on them, and classifies by the last one.

    Args:
        inner: [B, T, D], or [T, B, D], -> the same shape.
    """

    def __init__(self, inner: nn.Module, *, batch_first: bool = True) -> None:
        super().__init__()
        self.embedding, self.inner = nn.Embedding(20, D), inner
        self.output = nn.Linear(D, 7)
        self.batch_first = batch_first

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden = self.embedding(tokens_BT)
        hidden = self.inner(hidden if self.batch_first else hidden.transpose(0, 1))
        return self.output(hidden[:, -1] if self.batch_first else hidden[-1])


class Calls(nn.Module):
    """Calls a layer with further arguments."""

    def __init__(self, layer: nn.Module, **options: Any) -> None:
        super().__init__()
        self.layer, self.options = layer, options

    def forward(self, tokens: Tensor) -> Tensor:
        is_attention = isinstance(self.layer, nn.MultiheadAttention)
        outputs = self.layer(*[tokens] * (3 if is_attention else 1), **self.options)
        return outputs[0] if is_attention else outputs


class Cross(nn.Module):
    """Attends to other tokens than its own."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(D, H, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        other = tokens.flip(1)
        return self.attention(tokens, other, other, need_weights=False)[0]


def attention(**options: Any) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(D, H, **options)


def encoder_layer(**options: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(D, H, 16, **options)


def encoder(mask: Tensor | None, *, batch_first: bool = True, **options: Any) -> nn.Module:
    layer = encoder_layer(batch_first=batch_first, **options)
    layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return Tokens(Calls(layers, mask=mask), batch_first=batch_first)


def first(layer: nn.Module, **options: Any) -> nn.Module:
    return Tokens(Calls(layer, **options))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Return the list of what is computed in the other way, in the order of the calls."""
    found: list[Tensor] = []
    attend = _SelfAttention._attend

    def note(self: _SelfAttention, *arguments: Any) -> Tensor:
        found.append(attend(self, *arguments))
        return found[-1]

    monkeypatch.setattr(_SelfAttention, "_attend", note)
    return found


def outcome(module: nn.Module, form: Any, tokens: Tensor) -> list[Tensor]:
    """Return the loss and the gradients, and what torch's generator draws next."""
    torch.manual_seed(3)
    loss = cross_entropy(form(tokens), torch.arange(len(tokens)))
    return [loss, *torch.autograd.grad(loss, list(module.parameters())), torch.rand(2)]


def require_torchs_bits(module: nn.Module, precision: Precision = "float32") -> None:
    def call(tokens: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return module(tokens).float()

    torch.manual_seed(1)
    tokens = torch.randint(0, 20, (4, T))
    model = TorchModel(copy.deepcopy(module), precision=precision)
    expected = outcome(module.train(), call, tokens)
    torch.manual_seed(3)
    loss, gradients = model.compute_loss_and_gradients(Batch(tokens, torch.arange(4)))
    assert all(map(torch.equal, [loss, *gradients.tensors, torch.rand(2)], expected))
    assert not any(isinstance(layer, _SelfAttention) for layer in model.module.modules())


@pytest.mark.parametrize(
    ("module", "times"),
    [
        (encoder(None, dropout=0.0), 2),
        (encoder(None, dropout=0.0, batch_first=False), 2),
        (encoder(None), 2),  # with dropout
        (encoder(None, batch_first=False), 2),
        (encoder(CAUSAL), 2),  # torch recognizes it
        (encoder(CAUSAL, batch_first=False, norm_first=True), 2),
        (encoder(torch.linspace(-2, 2, T * T).view(T, T)), 2),
        (encoder(CAUSAL < 0), 2),  # the encoder makes numbers of it
        (encoder(None, bias=False), 2),
        (first(encoder_layer(batch_first=True), src_mask=CAUSAL), 1),
        (first(attention(batch_first=True, dropout=0.5), need_weights=False), 1),
        (
            first(
                attention(batch_first=True), need_weights=False, attn_mask=CAUSAL, is_causal=True
            ),
            1,
        ),
    ],
)
def test_losses_gradients_and_draws_have_torchs_bits(
    module: nn.Module, times: int, calls: list[Tensor]
) -> None:
    require_torchs_bits(module)
    assert len(calls) == times


def test_in_bfloat16_as_well(calls: list[Tensor]) -> None:
    require_torchs_bits(encoder(CAUSAL), precision="bf16")
    assert [one.dtype for one in calls] == [torch.bfloat16] * 2


@pytest.mark.parametrize(
    "module",
    [
        first(attention(batch_first=True)),  # which returns weights
        first(attention(batch_first=True), need_weights=False, attn_mask=CAUSAL < 0),
        first(
            attention(batch_first=True),
            need_weights=False,
            attn_mask=CAUSAL.expand(4 * H, T, T),
        ),
        first(
            attention(batch_first=True),
            need_weights=False,
            key_padding_mask=torch.arange(T).expand(4, T) > 3,
        ),
        first(attention(batch_first=True, add_zero_attn=True), need_weights=False),
        first(attention(batch_first=True, add_bias_kv=True), need_weights=False),
        Tokens(Cross()),
    ],
)
def test_what_else_attention_can_do_is_left_to_torch(
    module: nn.Module, calls: list[Tensor]
) -> None:
    require_torchs_bits(module)
    assert not calls


def test_evaluation_is_left_to_torch(calls: list[Tensor]) -> None:
    tokens = torch.randint(0, 20, (4, T))
    module = encoder(None, dropout=0.0)
    model = TorchModel(copy.deepcopy(module))
    with torch.no_grad():
        assert torch.equal(model.evaluation_outputs(Batch(tokens, tokens)), module.eval()(tokens))
    assert not calls


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attn_mask": torch.zeros(1, T)}, "2D attn_mask is torch.Size"),  # it would broadcast
        ({"is_causal": True}, "Need attn_mask if specifying the is_causal hint"),
    ],
)
def test_errors_are_torchs_and_leave_the_module_as_it_was(
    options: dict[str, Any], message: str
) -> None:
    module = first(attention(batch_first=True), need_weights=False, **options)
    model = TorchModel(module)
    with pytest.raises(RuntimeError, match=message):
        model.compute_loss_and_gradients(Batch(torch.zeros(4, T, dtype=int), torch.arange(4)))
    assert not any(isinstance(layer, _SelfAttention) for layer in module.modules())


def test_a_width_that_does_not_fit_is_torchs_error(calls: list[Tensor]) -> None:
    module = first(attention(batch_first=True), need_weights=False)
    module.embedding = nn.Embedding(20, D + 1)
    model = TorchModel(module)
    with pytest.raises(AssertionError, match="embedding dimension of 12, but got 13"):
        model.compute_loss_and_gradients(Batch(torch.zeros(4, T, dtype=int), torch.arange(4)))


def test_layers_with_methods_or_classes_of_their_own_are_called_as_they_are(
    calls: list[Tensor],
) -> None:
    class Own(nn.MultiheadAttention):
        pass

    module = nn.Sequential(first(Own(D, H, batch_first=True), need_weights=False))
    require_torchs_bits(module)
    replaced = attention(batch_first=True)
    replaced.forward = lambda *tokens, **options: (tokens[0] * 2.0, None)
    other = TorchModel(first(replaced, need_weights=False))
    other.compute_loss_and_gradients(Batch(torch.zeros(4, T, dtype=int), torch.arange(4)))
    assert not calls
