"""Who takes part in a round."""

from simfl.sampling.sampler import Sampler, Uniform, Weighted, plan_round

__all__ = ["Sampler", "Uniform", "Weighted", "plan_round"]
