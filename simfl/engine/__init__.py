"""Where a round's work is done: the protocol, the inline engine, and what decides for others."""

from simfl.engine.chunks import Pace, Work, Workload, cut_evaluation, equal_chunks, guided_chunks
from simfl.engine.device import DeviceUse, device_for, is_memory_full, measure_use, prepare_device
from simfl.engine.engine import Cohort, Engine, Handle, Trained, commit_checkpoint, snapshot_of
from simfl.engine.inline import InlineEngine, MoreHosts
from simfl.engine.process import (
    Sampling,
    give_back_freed_memory,
    peak_memory,
    require_profiler,
    reset_peak_memory,
)

__all__ = [
    "Cohort",
    "DeviceUse",
    "Engine",
    "Handle",
    "InlineEngine",
    "MoreHosts",
    "Pace",
    "Sampling",
    "Trained",
    "Work",
    "Workload",
    "commit_checkpoint",
    "cut_evaluation",
    "device_for",
    "equal_chunks",
    "give_back_freed_memory",
    "guided_chunks",
    "is_memory_full",
    "measure_use",
    "peak_memory",
    "prepare_device",
    "require_profiler",
    "reset_peak_memory",
    "snapshot_of",
]
