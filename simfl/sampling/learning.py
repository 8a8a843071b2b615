"""Samplers that look back on the rounds before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from simfl.component import Count
from simfl.errors import ConfigError
from simfl.sampling.pool import Array, Memory, Pool
from simfl.sampling.sampler import Sampler, draw_by_examples


@dataclass(frozen=True)
class PowerOfChoice(Sampler):
    """Draw candidates in proportion to their examples, and take those with the largest losses.

    Source: Cho et al., 2022, section 3.2 and 3.3, https://arxiv.org/abs/2010.01243
    """

    name: ClassVar[str] = "power-of-choice"

    candidates: Count
    """d, how many clients are drawn first, without replacement; at least ``client.per_round``."""
    loss: Literal["last", "current"] = "last"
    """``last``: a candidate's mean training loss in the last round to which it has contributed;
    those without one come first (the paper's rpow-d). ``current``: candidates are sent the weights
    of the round, and evaluate them on all of their training examples (pow-d)."""

    def asks(self, pool: Pool, memory: Memory, size: int, rng: np.random.Generator) -> Array:
        """Return the candidates, if their present losses are to be compared."""
        return self._draw(pool, size, rng) if self.loss == "current" else np.zeros(0, np.int64)

    def select(self, pool: Pool, memory: Memory, size: int, rng: np.random.Generator) -> Array:
        """Return the ids of the candidates with the largest losses; ties in the order drawn.

        Candidates that have no examples, or have failed when they were asked, come last.
        """
        if self.loss == "current":
            drawn, losses = pool.asked, np.where(np.isnan(pool.loss), -np.inf, pool.loss)
        else:
            drawn, losses = self._draw(pool, size, rng), pool.last_loss
            losses = np.where(np.isnan(losses), np.inf, losses)
        chosen: Array = drawn[np.argsort(-losses[drawn], kind="stable")[:size]]
        return chosen

    def _draw(self, pool: Pool, size: int, rng: np.random.Generator) -> Array:
        """Return the ids of the candidates.

        Raises:
            ConfigError: if there are too few.
        """
        if self.candidates < size:
            raise ConfigError(
                f"power-of-choice draws {self.candidates} candidates, but {size} clients take part "
                "in a round; raise client.sampler.candidates or lower client.per_round"
            )
        return draw_by_examples(pool.num_examples, min(self.candidates, len(pool)), rng=rng)
