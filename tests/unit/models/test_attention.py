"""Self-attention in less time: torch's own bits, and everything else left to torch."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from simfl.models import Batch, TorchModel
from simfl.models import attention as own
from simfl.models.model import Precision

B, T, D, H = 10, 16, 32, 4
CAUSAL = nn.Transformer.generate_square_subsequent_mask(T)


class Tokens(nn.Module):
    """Embeds tokens, has some layers work on them, and classifies by all of them.

    Args:
        inner: [B, T, D], or [T, B, D], -> the same shape.
    """

    def __init__(self, inner: nn.Module, *, batch_first: bool = True) -> None:
        super().__init__()
        self.embedding, self.inner = nn.Embedding(20, D), inner
        self.output = nn.Linear(D, 12)
        self.batch_first = batch_first

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden = self.embedding(tokens_BT)
        hidden = self.inner(hidden if self.batch_first else hidden.transpose(0, 1))
        return self.output((hidden**2).mean(1 if self.batch_first else 0))


class Calls(nn.Module):
    """Calls a layer with further arguments."""

    def __init__(self, layer: nn.Module, **options: Any) -> None:
        super().__init__()
        self.layer, self.options = layer, options

    def forward(self, tokens: Tensor) -> Tensor:
        is_attention = isinstance(self.layer, nn.MultiheadAttention)
        outputs = self.layer(*[tokens] * (3 if is_attention else 1), **self.options)
        return outputs[0] if is_attention else outputs


class Learned(nn.MultiheadAttention):
    """Of one head, with a mask that is trained."""

    def __init__(self) -> None:
        super().__init__(D, 1, batch_first=True)
        self.mask = nn.Parameter(torch.linspace(-1, 1, T * T).view(T, T))

    def forward(self, *tokens: Tensor, **options: Any) -> Any:
        return super().forward(*tokens, **options, attn_mask=self.mask)


class Checkpointed(nn.TransformerEncoderLayer):
    """Is computed again in the backward pass, when the function is torch's."""

    def __init__(self, **options: Any) -> None:
        super().__init__(D, H, 16, **options)

    def forward(self, tokens: Tensor, src_mask: Tensor) -> Tensor:
        return checkpoint(super().forward, tokens, src_mask, use_reentrant=False)


class DrawsWeights(nn.Module):
    """A parametrization that draws numbers, before dropout does."""

    def forward(self, weight: Tensor) -> Tensor:
        return F.dropout(weight, 0.2)


class Changing(nn.MultiheadAttention):
    """Becomes another kind of attention while it is called."""

    def forward(self, *tokens: Tensor, **options: Any) -> Any:
        self.add_zero_attn = True
        return super().forward(*tokens, **options)


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
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the list of what is computed in the other way."""
    found: list[Any] = []
    is_plain = own._is_plain

    def note(*arguments: Any) -> bool:
        is_ours = is_plain(*arguments)
        found.extend(["ours"] * is_ours)
        return is_ours

    monkeypatch.setattr(own, "_is_plain", note)
    return found


def outcome(module: nn.Module, form: Any, tokens: Tensor) -> list[Tensor]:
    """Return the loss and the gradients, and what torch's generator draws next."""
    torch.manual_seed(3)
    loss = F.cross_entropy(form(tokens), torch.arange(len(tokens)))
    return [loss, *torch.autograd.grad(loss, list(module.parameters())), torch.rand(2)]


def require_torchs_bits(module: nn.Module, precision: Precision = "float32") -> None:
    def call(tokens: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return module(tokens).float()

    torch.manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)  # biases, too
    tokens = torch.randint(0, 20, (B, T))
    model = TorchModel(copy.deepcopy(module), precision=precision)
    expected = outcome(module.train(), call, tokens)
    torch.manual_seed(3)
    loss, gradients = model.compute_loss_and_gradients(Batch(tokens, torch.arange(B)))
    assert all(map(torch.equal, [loss, *gradients.tensors, torch.rand(2)], expected))
    assert F.multi_head_attention_forward is own._torchs


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
        (first(attention(batch_first=True), need_weights=False, attn_mask=CAUSAL < 0), 1),
        (first(nn.TransformerEncoderLayer(D, 1, 16, batch_first=True)), 1),  # one head
        (first(Learned(), need_weights=False), 1),
        (first(Checkpointed(batch_first=True, dropout=0.0), src_mask=CAUSAL), 1),
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
    module: nn.Module, times: int, calls: list[Any]
) -> None:
    require_torchs_bits(module)
    assert len(calls) == times


def test_in_bfloat16_as_well(calls: list[Any]) -> None:
    require_torchs_bits(encoder(CAUSAL), precision="bf16")
    assert len(calls) == 2


@pytest.mark.parametrize(
    "module",
    [
        first(attention(batch_first=True)),  # which returns weights
        first(
            attention(batch_first=True),
            need_weights=False,
            attn_mask=CAUSAL.expand(B * H, T, T),
        ),
        first(
            attention(batch_first=True),
            need_weights=False,
            key_padding_mask=torch.arange(T).expand(B, T) > 3,
        ),
        first(attention(batch_first=True, add_zero_attn=True), need_weights=False),
        first(attention(batch_first=True, add_bias_kv=True), need_weights=False),
        first(nn.MultiheadAttention(D, D, dropout=0.1), need_weights=False),  # heads of one
        first(Changing(D, H, batch_first=True), need_weights=False),
        Tokens(Cross()),
    ],
)
def test_what_else_attention_can_do_is_left_to_torch(module: nn.Module, calls: list[Any]) -> None:
    require_torchs_bits(module)
    assert not calls


def test_evaluation_has_torchs_bits() -> None:
    tokens = torch.randint(0, 20, (B, T))
    module = encoder(CAUSAL)
    model = TorchModel(copy.deepcopy(module))
    with torch.no_grad():
        assert torch.equal(model.evaluation_outputs(Batch(tokens, tokens)), module.eval()(tokens))


def test_weights_that_are_drawn_are_drawn_before_dropout(calls: list[Any]) -> None:
    module = first(attention(batch_first=True, dropout=0.5), need_weights=False)
    parametrize.register_parametrization(module.inner.layer.out_proj, "weight", DrawsWeights())
    require_torchs_bits(module)
    assert calls == ["ours"]


def test_a_copy_that_is_made_in_a_call_is_torchs() -> None:
    class Copying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.copies = encoder_layer(batch_first=True), []

        def forward(self, tokens: Tensor) -> Tensor:
            self.copies.append(copy.deepcopy(self.layer))
            return self.layer(tokens)

    model = TorchModel(Tokens(Copying()))
    model.compute_loss_and_gradients(Batch(torch.zeros(B, T, dtype=int), torch.arange(B)))
    (made,) = model.module.inner.copies
    assert type(made.self_attn) is nn.MultiheadAttention
    assert vars(made.self_attn).keys() == vars(attention()).keys()


def test_other_threads_are_left_to_torch(calls: list[Any]) -> None:
    """While a thread is in a call, another one's plain module is torch's, and so is it after."""
    within, go = threading.Event(), threading.Event()

    class Waits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = encoder_layer(batch_first=True)

        def forward(self, tokens: Tensor) -> Tensor:
            within.set()
            assert go.wait(60)
            return self.layer(tokens)

    model, plain = TorchModel(Tokens(Waits())), encoder(None)
    batch = Batch(torch.zeros(B, T, dtype=int), torch.arange(B))
    with ThreadPoolExecutor() as pool:
        done = pool.submit(model.compute_loss_and_gradients, batch)
        assert within.wait(60)
        plain(batch.inputs)
        assert not calls
        go.set()
        done.result()
    assert calls == ["ours"]
    assert F.multi_head_attention_forward is own._torchs


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
        model.compute_loss_and_gradients(Batch(torch.zeros(B, T, dtype=int), torch.arange(B)))
    assert F.multi_head_attention_forward is own._torchs


def test_a_width_that_does_not_fit_is_torchs_error(calls: list[Any]) -> None:
    module = first(attention(batch_first=True), need_weights=False)
    module.embedding = nn.Embedding(20, D + 1)
    model = TorchModel(module)
    with pytest.raises(AssertionError, match="embedding dimension of 32, but got 33"):
        model.compute_loss_and_gradients(Batch(torch.zeros(B, T, dtype=int), torch.arange(B)))


def test_somebody_elses_function_stays(monkeypatch: pytest.MonkeyPatch, calls: list[Any]) -> None:
    others: list[Any] = []

    def other(*arguments: Any, **options: Any) -> Any:
        others.append("theirs")
        return own._torchs(*arguments, **options)

    monkeypatch.setattr(F, "multi_head_attention_forward", other)
    model = TorchModel(encoder(None))
    model.compute_loss_and_gradients(Batch(torch.zeros(B, T, dtype=int), torch.arange(B)))
    assert len(others) == 2
    assert not calls
    assert F.multi_head_attention_forward is other
