"""Samplers that look back on the rounds before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from simfl.component import Count
from simfl.errors import ConfigError
from simfl.sampling.pool import Array, Memory, Pool
from simfl.sampling.sampler import Sampler, draw_by_examples


@dataclass(frozen=True)
class PowerOfChoice(Sampler):
    """Draw candidates in proportion to their examples, and take those with the largest losses.

    A client's loss is its mean training loss in the last round to which it has contributed;
    candidates that have not contributed yet come first. This is the paper's variant without an
    evaluation of the candidates (rpow-d).

    Source: Cho et al., 2022, section 3.2 and 3.3, https://arxiv.org/abs/2010.01243
    """

    name: ClassVar[str] = "power-of-choice"

    candidates: Count
    """d, how many clients are drawn first, without replacement; at least ``client.per_round``."""

    def select(self, pool: Pool, memory: Memory, size: int, rng: np.random.Generator) -> Array:
        """Return the ids of the candidates with the largest losses; ties in the order drawn."""
        if self.candidates < size:
            raise ConfigError(
                f"power-of-choice draws {self.candidates} candidates, but {size} clients take part "
                "in a round; raise client.sampler.candidates or lower client.per_round"
            )
        number = min(self.candidates, len(pool))
        drawn = draw_by_examples(pool.num_examples, number, rng=rng)
        losses = pool.last_loss[drawn]
        order = np.argsort(-np.where(np.isnan(losses), np.inf, losses), kind="stable")
        chosen: Array = drawn[order[:size]]
        return chosen
