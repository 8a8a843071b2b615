"""One part of the GPU benchmark, in a process of its own: python -m on_gpu PART SETTINGS."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch

from on_gpu.place import Place, describe_device

FUNCTIONS = {
    "W1": "against.run",
    "stacks": "stacking.run",
    "recording": "recording.run",
    "waits": "waiting.run",
    "memory": "fitting.run",
    "reading": "reading.read",
    "evaluation": "reading.evaluate",
    "actors": "sharing.run",
}


def describe(place: Place) -> None:
    """Print and store what the device is.

    Raises:
        SystemExit: if torch finds no GPU.
    """
    if place.is_cuda and not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU; --device cpu --scale 0.02 tries it out")
    for name, value in describe_device(place).items():
        place.put(name, value)
        place.say(f"{name:<12}{value}")


def find(part: str) -> Callable[[Place], None]:
    """Return a part's function."""
    if part == "device":
        return describe
    module, function = FUNCTIONS[part].split(".")
    found: Callable[[Place], None] = getattr(import_module(f"on_gpu.{module}"), function)
    return found


def main() -> None:
    """Run the part."""
    part, settings = sys.argv[1], json.loads(sys.argv[2])
    place = Place(
        part=part,
        device=settings["device"],
        scale=settings["scale"],
        ends=settings["ends"],
        out=Path(settings["out"]),
    )
    if not place.is_cuda:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    find(part)(place)


if __name__ == "__main__":
    main()
