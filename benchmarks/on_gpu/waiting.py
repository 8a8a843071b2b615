"""Where simfl makes the host wait for the GPU, as torch's debug mode for synchronization sees it.

While the host waits, nothing is launched, and the GPU runs out of work. The mode does not see all
waits: https://docs.pytorch.org/docs/stable/generated/torch.cuda.set_sync_debug_mode.html
"""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import torch

from on_gpu.place import Place
from on_gpu.shapes import SHAPES, Trained

__all__ = ["run"]

_CLIENTS = 8


def run(place: Place) -> None:
    """Count the waits of some clients, one at a time and in a stack."""
    if not place.is_cuda:
        place.skip("torch sees waits for a GPU only")
        return
    shape = next(shape for shape in SHAPES if shape.name == "cnn-32")
    trained = Trained.of(shape, clients=_CLIENTS)
    for stack in (1, _CLIENTS):
        host = trained.host(stack=stack, device=place.device)
        trained.train(host, _CLIENTS)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                trained.train(host, _CLIENTS)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        places = Counter(
            f"{Path(one.filename).name}:{one.lineno}"
            for one in caught
            if "called a synchronizing" in str(one.message)
        )
        place.say(f"{_CLIENTS} clients in stacks of {stack}: {sum(places.values())} waits")
        for where, count in places.most_common():
            place.say(f"    {count:>4}  {where}")
        place.put(f"stack {stack}", dict(places))
