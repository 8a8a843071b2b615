"""How a cohort is drawn, in the terms of privacy accounting: amplification by sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Poisson:
    """Each client takes part with the same probability, independently of the others."""

    probability: float
    """q."""


@dataclass(frozen=True)
class FixedSize:
    """Every set of so many clients has the same probability."""

    size: int
    """m."""
    population: int
    """N."""


@dataclass(frozen=True)
class All:
    """The whole population takes part in every round."""


@dataclass(frozen=True)
class DataFree:
    """The cohort depends on the round, and on no data: nothing is amplified."""


Mechanism: TypeAlias = Poisson | FixedSize | All | DataFree
"""One of those that accountants know."""
