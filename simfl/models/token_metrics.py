"""Metrics of language models; targets of -100 do not count.

Shapes: B examples, L positions, V words of the vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from simfl.component import Count
from simfl.errors import ConfigError
from simfl.models.metrics import Metric
from simfl.models.per_example import (
    IGNORED,
    counted_positions,
    match_classes,
    mean_over_counted,
)


@dataclass(frozen=True)
class _OfTokens(Metric):
    """A mean over all positions that count, whichever examples they are of."""

    def example_weights(self, targets: Tensor) -> Tensor:
        """Return how many positions of each example count: [B]."""
        return counted_positions(targets)

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the positions of each example that count: [B]."""
        outputs, targets = match_classes(self.name, outputs, targets)
        counts = targets != IGNORED
        return mean_over_counted(self._values(outputs, targets) * counts, targets)

    def _values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return a number for each position: [B, ...]."""
        raise NotImplementedError


@dataclass(frozen=True)
class Perplexity(_OfTokens):
    """The exponential of the mean negative log-likelihood of all tokens that count.

    That of a client is of its own tokens. Over clients, ``by_examples`` is that of all their tokens
    together.
    """

    name: ClassVar[str] = "perplexity"
    larger_is_better: ClassVar[bool] = False

    def finish(self, total: float, weight: float) -> float:
        """Return exp(total / weight)."""
        return math.exp(total / weight)

    def _values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses = F.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="none")
        return losses.reshape(targets.shape)


@dataclass(frozen=True)
class TokenAccuracy(_OfTokens):
    """The fraction of tokens that are predicted, of all that count; ``accuracy`` is by example.

    A prediction with a NaN output counts as wrong.
    """

    name: ClassVar[str] = "token-accuracy"

    def _values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        right = (outputs.argmax(dim=-1) == targets) & ~outputs.isnan().any(dim=-1)
        return right.float()


@dataclass(frozen=True)
class ExactMatch(Metric):
    """The fraction of examples whose response, with its end, greedy generation would give.

    A causal model's greedy answer is the response if and only if, at each of its positions, the
    most likely token is the response's, given those before: so one call of the model is enough.
    Among equal logits the first counts, and a NaN is no match.
    """

    name: ClassVar[str] = "exact-match"
    max_new_tokens: Count | None = None
    """How many tokens are generated: a longer response counts as wrong. Null: no limit."""

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return 1 for each example that matches, and 0 for the others: [B].

        Raises:
            ConfigError: unless targets are sequences.
        """
        outputs, targets = match_classes(self.name, outputs, targets)
        if targets.dim() != 2:
            raise ConfigError(
                f"{self.name}: targets have shape {list(targets.shape)}, but it compares sequences "
                "of tokens; use accuracy"
            )
        right = (outputs.argmax(dim=-1) == targets) & ~outputs.isnan().any(dim=-1)
        matches = (right | (targets == IGNORED)).all(dim=1)
        if self.max_new_tokens is not None:
            matches &= counted_positions(targets) <= self.max_new_tokens
        return matches.float()
