"""Which device a process trains on.

It follows from the scenario and never from the devices of the machine, so that a run is the same
everywhere, or fails with the reason.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

import torch

from simfl.errors import ClusterError

_USABLE: Final = 0.9
"""The fraction of a GPU's memory that actors may use."""


def device_for(who: str, *, uses_gpu: bool) -> str:
    """Return the torch device: the CPU, or the first GPU that is visible to this process.

    Ray makes only an actor's own GPUs visible to it.

    Args:
        who: for the message, ``client-3``.
        uses_gpu: whether ``cluster.num_gpus`` is greater than 0.

    Raises:
        ClusterError: if a GPU is requested and torch cannot use any.
    """
    if not uses_gpu:
        return "cpu"
    if not torch.cuda.is_available():
        raise ClusterError(
            f"{who}: cluster.num_gpus asks for a GPU, but torch {torch.__version__} finds none; "
            "install a CUDA build of torch and its driver, or set cluster.num_gpus: 0"
        )
    return "cuda:0"


def prepare_device(device: str, *, deterministic: bool) -> None:
    """Set up this process for its device; does nothing for a CPU.

    Args:
        device: as ``device_for`` returns it.
        deterministic: whether torch uses only kernels that give the same bits each time, and fails
            where it has none
            (https://docs.pytorch.org/docs/stable/notes/randomness.html).
    """
    if deterministic and device != "cpu":
        # Read when cuBLAS is first used in this process.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


@dataclass(frozen=True)
class DeviceUse:
    """How much of a GPU's memory training uses, in bytes."""

    used: int
    """The peak of this process, its CUDA context included."""
    total: int

    def processes_that_fit(self) -> int:
        """Return how many such processes fit, with a tenth of the memory to spare."""
        return max(1, int(self.total * _USABLE / self.used))


def measure_use(device: str) -> DeviceUse | None:
    """Return how much memory this process has used of its device so far; None for a CPU.

    No other process may use the device, since torch does not know which process uses how much.
    """
    if device == "cpu":
        return None
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    context = total - free - reserved
    return DeviceUse(torch.cuda.max_memory_reserved(device) + context, total)


def is_memory_full(error: BaseException) -> bool:
    """Return whether an error says that the memory of a GPU is full."""
    return isinstance(error, torch.cuda.OutOfMemoryError)
