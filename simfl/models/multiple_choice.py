"""Multiple choice by log-likelihood: a metric that calls a language model once for each choice.

Shapes: B examples, L positions, M tokens of a choice, K choices, V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import MinLen
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from simfl.errors import ConfigError
from simfl.models.metrics import Encode, Metric
from simfl.models.model import Batch
from simfl.models.per_example import IGNORED, match_classes


@dataclass(frozen=True)
class MultipleChoice(Metric):
    """The fraction of examples whose response is, of the given choices, the most likely one.

    The likelihood of a choice is that of its tokens after the prompt, without an end. A response
    that is none of the choices counts as wrong. The data must be ``source: text`` with a
    ``prompt`` and a ``response``, and the model causal; it is called once for each choice, and
    ``max_tokens`` must leave room for the longest one.
    """

    name: ClassVar[str] = "multiple-choice"
    choices: Annotated[tuple[str, ...], MinLen(2)]
    """The texts, as ``response`` would give them."""
    by_length: bool = False
    """Whether a choice's log-likelihood is divided by the number of its tokens."""

    def for_tokenizer(self, encode: Encode | None) -> Metric:
        """Return the metric for these choices' tokens.

        Raises:
            ConfigError: if there is no tokenizer, or a choice has no token.
        """
        if encode is None:
            raise ConfigError(f"{self.name} needs the tokenizer of source: text; remove it")
        ids = tuple(tuple(encode(choice)) for choice in self.choices)
        if empty := [text for text, own in zip(self.choices, ids, strict=True) if not own]:
            raise ConfigError(f"{self.name}: the choice {empty[0]!r} has no token; remove it")
        return MostLikely(ids, self.by_length)

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Refuse: the choices have no tokens yet."""
        raise ConfigError(f"{self.name} needs the tokenizer of source: text; remove it")


@dataclass(frozen=True)
class MostLikely(Metric):
    """``MultipleChoice`` with the tokens of its choices."""

    choices: tuple[tuple[int, ...], ...]
    by_length: bool = False

    @property
    def key(self) -> str:
        """The name in reports."""
        return MultipleChoice.name

    def of_model(self, predict: Callable[[Any], Any], batch: Batch) -> Tensor:
        """Return 1 for each example whose response is the most likely choice, otherwise 0: [B].

        Args:
            predict: maps inputs to logits.
            batch: token ids [B, L], and targets [B, L] that count from the response on.
        """
        tokens = batch.inputs
        if not isinstance(tokens, Tensor) or tokens.shape != batch.targets.shape:
            raise ConfigError(f"{self.key} needs one array of tokens, and a target for each")
        counts = batch.targets != IGNORED
        first_B = counts.int().argmax(dim=1)
        scores = [self._scores(predict, tokens, first_B, ids) for ids in self.choices]
        best_B = torch.stack(scores).argmax(dim=0)
        return (best_B == self._right(batch.targets, first_B, counts.sum(dim=1))).float()

    def _scores(
        self, predict: Callable[[Any], Any], tokens: Tensor, first_B: Tensor, ids: Sequence[int]
    ) -> Tensor:
        """Return the log-likelihood of a choice after each prompt: [B]."""
        choice_M = torch.tensor(ids, device=tokens.device)
        places_BM = first_B[:, None] + torch.arange(len(ids), device=tokens.device)
        asked = F.pad(tokens, (0, len(ids)))[:, : int(first_B.max()) + len(ids)]
        asked = asked.scatter(1, places_BM[:, 1:], choice_M[:-1].expand(len(tokens), -1))
        wanted = asked.new_full(asked.shape, IGNORED)
        wanted = wanted.scatter(1, places_BM, choice_M.expand(len(tokens), -1))
        logits, wanted = match_classes(self.key, predict(asked), wanted)
        losses = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
        total_B = -losses.reshape(wanted.shape).double().sum(dim=1)
        return total_B / len(ids) if self.by_length else total_B

    def _right(self, targets: Tensor, first_B: Tensor, counts_B: Tensor) -> Tensor:
        """Return which choice each response is, or -1; it may have an end, or not: [B]."""
        right_B = torch.full_like(first_B, -1)
        for index, ids in enumerate(self.choices):
            wanted_M = torch.tensor(ids, device=targets.device)
            places_BM = first_B[:, None] + torch.arange(len(ids), device=targets.device)
            padded = F.pad(targets, (0, len(ids)), value=IGNORED)
            is_equal = (padded.gather(1, places_BM) == wanted_M).all(dim=1)
            has_length = (counts_B == len(ids)) | (counts_B == len(ids) + 1)
            right_B = torch.where(is_equal & has_length, index, right_B)
        return right_B
