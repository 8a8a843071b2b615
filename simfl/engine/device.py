"""Which device a process trains on.

It follows from what the scenario asks for, never from what happens to be there: a run is the same
run everywhere, or says why it cannot be.
"""

from __future__ import annotations

import torch

from simfl.errors import ClusterError

__all__ = ["device_for"]


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
