"""Which device a process trains on.

It follows from what the scenario asks for, never from what happens to be there: a run is the same
run everywhere, or says why it cannot be.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

import torch

from simfl.errors import ClusterError

_USABLE: Final = 0.9
"""The share of a GPU's memory that is given out."""


def device_for(who: str, *, uses_gpu: bool) -> str:
    """Return the torch device: of the GPUs a process sees, the first.

    Ray shows an actor the GPUs that it was given, and no others.

    Args:
        who: for the message, ``client-3``.
        uses_gpu: whether ``cluster.num_gpus`` is more than 0.

    Raises:
        ClusterError: if a GPU is asked for that this process's torch cannot use.
    """
    if not uses_gpu:
        return "cpu"
    if not torch.cuda.is_available():
        raise ClusterError(
            f"{who} is to train on a GPU (cluster.num_gpus), but torch {torch.__version__} there "
            "finds none; install a CUDA build of torch and its driver, or set cluster.num_gpus: 0"
        )
    return "cuda:0"


def prepare_device(device: str, *, deterministic: bool) -> None:
    """Set up this process for its device; of a CPU there is nothing to set.

    Args:
        device: as ``device_for`` returns it.
        deterministic: whether torch is to use kernels that give the same bits each time, and to
            fail where it has none
            (https://docs.pytorch.org/docs/stable/notes/randomness.html).
    """
    if deterministic and device != "cpu":
        # Read when cuBLAS is first used in this process.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


@dataclass(frozen=True)
class DeviceUse:
    """What training takes of a GPU's memory, in bytes."""

    used: int
    """By this process at the most, its CUDA context included."""
    total: int

    def processes_that_fit(self) -> int:
        """Return for how many such processes there is room, with a tenth to spare."""
        return max(1, int(self.total * _USABLE / self.used))


def measure_use(device: str) -> DeviceUse | None:
    """Return what this process has taken of its device so far; None of a CPU.

    While no other process uses the device: torch cannot tell whose the rest is.
    """
    if device == "cpu":
        return None
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    context = total - free - reserved
    return DeviceUse(torch.cuda.max_memory_reserved(device) + context, total)


def is_memory_full(error: BaseException) -> bool:
    """Say whether an error is that of a GPU whose memory is full."""
    return isinstance(error, torch.cuda.OutOfMemoryError)
