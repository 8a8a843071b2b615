"""Where a part of the GPU benchmark runs: the device, the time it has, and the file of results."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["Place", "add_result", "best_seconds", "describe_device"]


def add_result(file: Path, part: str, key: str, value: Any) -> None:
    """Put a value into a JSON file, which is complete at every moment."""
    results = json.loads(file.read_text()) if file.exists() else {}
    results.setdefault(part, {})[key] = value
    written = file.with_suffix(".new")
    written.write_text(json.dumps(results, indent=1))
    os.replace(written, file)


@dataclass(frozen=True)
class Place:
    """What a part is given."""

    part: str
    device: str
    """``cuda`` or ``cpu``."""
    scale: float
    """Shrinks every count, to try it out."""
    ends: float
    """When its time is over, by ``time.monotonic``."""
    out: Path
    """The file of results."""

    @property
    def is_cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.device == "cuda"

    @property
    def left(self) -> float:
        """The seconds left."""
        return self.ends - time.monotonic()

    def synchronize(self) -> None:
        """Wait until the device has done all it was given."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def say(self, line: str) -> None:
        """Print a line at once."""
        print(line, flush=True)

    def put(self, key: str, value: Any) -> None:
        """Put a figure into the file of results."""
        add_result(self.out, self.part, key, value)

    def skip(self, line: str) -> None:
        """Say what is not measured, and why."""
        self.say(f"not measured: {line}")
        self.put("not_measured", line)


def best_seconds(place: Place, call: Callable[[], Any], *, within: float, most: int = 20) -> float:
    """Return the least seconds of some calls, synchronized; the first, which warms up, is left out.

    Args:
        place: where it runs.
        call: is made twice at least.
        within: seconds for all calls.
        most: calls after the first.
    """
    until = time.monotonic() + within
    call()
    place.synchronize()
    found: list[float] = []
    while not found or (len(found) < most and time.monotonic() < until):
        began = time.perf_counter()
        call()
        place.synchronize()
        found.append(time.perf_counter() - began)
    return min(found)


def describe_device(place: Place) -> dict[str, Any]:
    """Return the versions and the device's facts."""
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cores": os.cpu_count(),
        "tf32": {
            "convolutions": torch.backends.cudnn.allow_tf32,
            "products": torch.backends.cuda.matmul.allow_tf32,
        },
    }
    if place.is_cuda:
        facts = torch.cuda.get_device_properties(0)
        found |= {
            "name": facts.name,
            "memory": facts.total_memory,
            "processors": facts.multi_processor_count,
            "capability": f"{facts.major}.{facts.minor}",
            "driver": _driver(),
        }
    return found


def _driver() -> str | None:
    """Return the driver's version, as nvidia-smi tells it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return (done.stdout.splitlines() or [None])[0]
