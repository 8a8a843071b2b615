"""Sweeps: many runs of one scenario, with other values in some of its keys."""

from simfl.sweep.results import Combination, SweepResult, TrialResult
from simfl.sweep.sweeping import resume_sweep, run_sweep

__all__ = ["Combination", "SweepResult", "TrialResult", "resume_sweep", "run_sweep"]
