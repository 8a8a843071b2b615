"""Sampling: which clients take part in a round, and how much and on what each trains."""

from simfl.sampling.learning import PowerOfChoice
from simfl.sampling.local_work import LocalWork, StepPlan
from simfl.sampling.planning import begin_past, learn_from, looks_back, order_cohort, plan_round
from simfl.sampling.pool import Memory, Past, Pool
from simfl.sampling.sampler import (
    All,
    DataFree,
    FixedSize,
    Mechanism,
    Poisson,
    PoissonSampling,
    Proportional,
    RoundRobin,
    Sampler,
    Uniform,
    Weighted,
)
from simfl.sampling.work import Choice, Stragglers, UniformInt, Work

__all__ = [
    "All",
    "Choice",
    "DataFree",
    "FixedSize",
    "LocalWork",
    "Mechanism",
    "Memory",
    "Past",
    "Poisson",
    "PoissonSampling",
    "Pool",
    "PowerOfChoice",
    "Proportional",
    "RoundRobin",
    "Sampler",
    "StepPlan",
    "Stragglers",
    "Uniform",
    "UniformInt",
    "Weighted",
    "Work",
    "begin_past",
    "learn_from",
    "looks_back",
    "order_cohort",
    "plan_round",
]
