"""Sampling: which clients take part in a round, and which of its examples each trains on."""

from simfl.sampling.local_work import LocalWork, StepPlan
from simfl.sampling.sampler import Proportional, Sampler, Uniform, Weighted, plan_round

__all__ = [
    "LocalWork",
    "Proportional",
    "Sampler",
    "StepPlan",
    "Uniform",
    "Weighted",
    "plan_round",
]
