"""Sampling: which clients take part in a round, and how much and on what each trains."""

from simfl.sampling.local_work import LocalWork, StepPlan
from simfl.sampling.sampler import Proportional, Sampler, Uniform, Weighted, plan_round
from simfl.sampling.work import Choice, Stragglers, UniformInt, Work

__all__ = [
    "Choice",
    "LocalWork",
    "Proportional",
    "Sampler",
    "StepPlan",
    "Stragglers",
    "Uniform",
    "UniformInt",
    "Weighted",
    "Work",
    "plan_round",
]
