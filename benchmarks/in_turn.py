"""A plug-in for benchmarks: a sampler by which clients take part in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from simfl.component import Count
from simfl.sampling import Sampler
from simfl.seeding import numpy_generator


@dataclass(frozen=True)
class InTurn(Sampler):
    """Clients 0 to n-1 in the first round, n to 2n-1 in the next, and so on around.

    A sampler is given its round's generator, and not the round: it compares the generator with
    those of all rounds. So a cohort depends on the seed and the round alone, after a resume too.
    """

    name: ClassVar[str] = "in-turn"

    rounds: Count
    """How many the run has at most."""
    seed: int = 0
    """The run's."""

    def sample(
        self, num_examples: np.ndarray[Any, Any], size: int, *, rng: np.random.Generator
    ) -> np.ndarray[Any, Any]:
        """Return the ids whose turn it is."""
        mine = _first_draw(rng)
        turn = next(
            round
            for round in range(self.rounds)
            if _first_draw(numpy_generator(self.seed, "cohort", round=round + 1)) == mine
        )
        return np.arange(turn * size, (turn + 1) * size) % len(num_examples)


def _first_draw(rng: np.random.Generator) -> int:
    return int(rng.integers(1 << 62))
