"""Where a round's work is done: the protocol, the inline engine, and the chunk scheduler."""

from simfl.engine.device import device_for
from simfl.engine.engine import Engine, Handle
from simfl.engine.inline import InlineEngine
from simfl.engine.scheduler import ChunkScheduler, chunk_size_for, split_cohort

__all__ = [
    "ChunkScheduler",
    "Engine",
    "Handle",
    "InlineEngine",
    "chunk_size_for",
    "device_for",
    "split_cohort",
]
