"""Sampling: which clients take part in a round."""

from simfl.sampling.sampler import Proportional, Sampler, Uniform, Weighted, plan_round

__all__ = ["Proportional", "Sampler", "Uniform", "Weighted", "plan_round"]
