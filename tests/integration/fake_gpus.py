"""Plug-ins for tests of groups: GPUs that only Ray counts, and one whose memory is full.

On import an actor takes a CPU for the GPU that Ray has given it; what Ray gives is written down.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from killing import is_shot_left

import simfl.cluster.client_actor
from simfl.optimizer import Context, OptiModule, State
from simfl.vector import Vector

simfl.cluster.client_actor.device_for = lambda who, uses_gpu: "cpu"


@dataclass(frozen=True)
class NoteDevice(OptiModule):
    """Note for each client what the actor that trains it was given."""

    name: ClassVar[str] = "note-device"

    folder: str
    """Where it is noted, a file for each client and process."""

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        """Leave the gradients as they are."""
        import ray

        given = ray.get_runtime_context() if ray.is_initialized() else None
        if given is not None and given.get_actor_id() is not None:
            note = {
                "actor": given.get_actor_name(),
                "node": given.get_node_id(),
                "gpus": given.get_accelerator_ids()["GPU"],
                "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
            }
            for client in context.clients:
                path = Path(self.folder) / f"device-{client}-{os.getpid()}.json"
                path.write_text(json.dumps(note))
        return gradients, state


@dataclass(frozen=True)
class FullAt(OptiModule):
    """Find the GPU's memory full at a client's step, the given number of times."""

    name: ClassVar[str] = "full-at"

    folder: str
    """Where it is counted."""
    client: int
    """Whose step it is."""
    round: int
    """In which round."""
    times: int = 1
    """How often."""

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        """Raise what torch raises, or leave the gradients as they are."""
        is_now = context.round == self.round and self.client in context.clients
        if is_now and is_shot_left(Path(self.folder), f"full-{self.round}", self.times):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return gradients, state
