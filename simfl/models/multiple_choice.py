"""Multiple choice by log-likelihood: a metric that calls a language model once for each choice.

Shapes: B examples, L positions, M tokens of the longest choice, V words of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

import torch
from annotated_types import MinLen
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from simfl.errors import ConfigError
from simfl.models.metrics import Encode, Metric
from simfl.models.model import Batch
from simfl.models.per_example import IGNORED, match_classes

NO_CHOICES: Final = (
    "multiple-choice has no choices: set its choices, or data.choices if they differ from example "
    "to example"
)


@dataclass(frozen=True)
class MultipleChoice(Metric):
    """The fraction of examples whose response is, of some choices, the most likely one.

    The likelihood of a choice is that of its tokens after the prompt, without an end. A response
    that is none of the choices counts as wrong. The data must be ``source: text`` with a
    ``prompt`` and a ``response``, and the model causal; it is called once for each choice, and
    ``max_tokens`` must leave room for the longest one.

    Source: Brown et al., 2020, section 2.4, https://arxiv.org/abs/2005.14165
    """

    name: ClassVar[str] = "multiple-choice"
    choices: Annotated[tuple[str, ...], MinLen(2)] | None = None
    """The texts, as ``response`` would give them. Null: those of each example, ``data.choices``."""
    by_length: bool = False
    """Whether a choice's log-likelihood is divided by the number of its tokens."""

    def for_tokenizer(self, encode: Encode | None) -> Metric:
        """Return the metric for these choices' tokens.

        Raises:
            ConfigError: if there is no tokenizer, or a choice has no token.
        """
        if encode is None:
            raise ConfigError(f"{self.name} needs the tokenizer of source: text; remove it")
        if self.choices is None:
            return MostLikely(None, self.by_length)
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

    choices: tuple[tuple[int, ...], ...] | None
    """None: those of the batch."""
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
        choices = self._choices(batch)
        scores = [self._scores(predict, tokens, first_B, choice_BM) for choice_BM in choices]
        best_B = torch.stack(scores).argmax(dim=0)
        right_B = _right(batch.targets, first_B, counts.sum(dim=1), choices)
        return (best_B == right_B).float()

    def _choices(self, batch: Batch) -> list[Tensor]:
        """Return the tokens of each choice: [B, M], -100 behind their end.

        Raises:
            ConfigError: if the examples have none.
        """
        targets = batch.targets
        if self.choices is not None:
            rows = [torch.tensor(ids, device=targets.device) for ids in self.choices]
            return [row.expand(len(targets), -1) for row in rows]
        if not batch.choices:
            raise ConfigError(NO_CHOICES)
        return [choice[:, : _longest(choice)] for choice in batch.choices]

    def _scores(
        self, predict: Callable[[Any], Any], tokens: Tensor, first_B: Tensor, choice_BM: Tensor
    ) -> Tensor:
        """Return the log-likelihood of a choice after each prompt, -inf if there is none: [B]."""
        width = choice_BM.shape[1]
        places_BM = first_B[:, None] + torch.arange(width, device=tokens.device)
        asked = F.pad(tokens, (0, width))[:, : int(first_B.max()) + width]
        asked = asked.scatter(1, places_BM[:, 1:], choice_BM[:, :-1].clamp(min=0))
        wanted = asked.new_full(asked.shape, IGNORED).scatter(1, places_BM, choice_BM)
        logits, wanted = match_classes(self.key, predict(asked), wanted)
        losses = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
        total_B = -losses.reshape(wanted.shape).double().sum(dim=1)
        lengths_B = (choice_BM != IGNORED).sum(dim=1)
        total_B = total_B / lengths_B if self.by_length else total_B
        return torch.where(lengths_B > 0, total_B, -math.inf)


def _longest(choice_BM: Tensor) -> int:
    return max(int((choice_BM != IGNORED).sum(dim=1).max()), 1)


def _right(targets: Tensor, first_B: Tensor, counts_B: Tensor, choices: Sequence[Tensor]) -> Tensor:
    """Return the first choice that each response is, or -1; it may have an end, or not: [B]."""
    right_B = torch.full_like(first_B, -1)
    for index, choice_BM in enumerate(choices):
        is_token = choice_BM != IGNORED
        places_BM = first_B[:, None] + torch.arange(choice_BM.shape[1], device=targets.device)
        padded = F.pad(targets, (0, choice_BM.shape[1]), value=IGNORED)
        is_equal = ((padded.gather(1, places_BM) == choice_BM) | ~is_token).all(dim=1)
        beyond_B = counts_B - is_token.sum(dim=1)
        is_choice = is_token.any(dim=1) & is_equal & ((beyond_B == 0) | (beyond_B == 1))
        right_B = torch.where((right_B < 0) & is_choice, index, right_B)
    return right_B
