"""Where a round's work is done: the protocol, the inline engine, and the chunk scheduler."""

from simfl.engine.device import device_for
from simfl.engine.engine import Engine, Handle, Trained
from simfl.engine.inline import InlineEngine
from simfl.engine.memory import peak_memory
from simfl.engine.profiling import Sampling, require_profiler
from simfl.engine.saving import commit_checkpoint, load_state, snapshot_of, write_states
from simfl.engine.scheduler import ChunkScheduler, Pace, guided_chunks, split_cohort
from simfl.engine.states import PlannedShard, StateTable

__all__ = [
    "ChunkScheduler",
    "Engine",
    "Handle",
    "InlineEngine",
    "Pace",
    "PlannedShard",
    "Sampling",
    "StateTable",
    "Trained",
    "commit_checkpoint",
    "device_for",
    "guided_chunks",
    "load_state",
    "peak_memory",
    "require_profiler",
    "snapshot_of",
    "split_cohort",
    "write_states",
]
