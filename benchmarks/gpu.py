"""What simfl does on one GPU, in ten minutes: its rounds against pfl-research, stacks, and more.

    python benchmarks/peers/setup.py --here pfl     # pfl-research, with this Python's torch
    python benchmarks/gpu.py --out gpu.json
    python benchmarks/gpu.py --only W1,stacks --minutes 5
    python benchmarks/gpu.py --device cpu --scale 0.02 --minutes 1          # tries it out

Each part is a process of its own, so that one that fails or hangs costs no other. Every figure is
printed and written to the JSON file as soon as it is known. The parts, the most important first:

    device      name, driver, versions
    W1          1,500 rounds of W1 (the shape of pfl-research's CIFAR-10 benchmark): simfl, pfl and
                bare loops in turns; losses are checked; what does not fit is scaled up
    stacks      seconds of a client's step by the size of its stack, and the rule that follows
    recording   CUDA graphs and torch.compile for a stacked step
    waits       where simfl waits for the GPU
    memory      what ``cluster.actors: auto`` predicts, and what is used
    actors      1, 2 and 4 actors on the GPU, on Ray
    evaluation  examples a second
    reading     batches of examples that stay on the GPU, and of moved ones

Their code is in ``on_gpu/``. Without pfl-research, or without Ray, the rest goes on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

_HERE = Path(__file__).resolve().parent
PARTS = {
    "device": 10,
    "W1": 190,
    "stacks": 120,
    "recording": 100,
    "waits": 15,
    "memory": 25,
    "actors": 90,
    "evaluation": 20,
    "reading": 20,
}
"""Seconds of each in ten minutes; what one does not use is shared by those after it."""
_GRACE_S = 15.0
"""After its time, a part may end what it is doing."""
_LEAST_S = 5.0


def main(
    device: Annotated[str, typer.Option(help="cuda, or cpu to try it out.")] = "cuda",
    minutes: Annotated[float, typer.Option(help="For everything.")] = 10.0,
    only: Annotated[str, typer.Option(help=f"Parts: {', '.join(PARTS)}.")] = "",
    scale: Annotated[float, typer.Option(help="Shrinks every count, to try it out.")] = 1.0,
    out: Annotated[Path, typer.Option(help="The file of results.")] = Path("gpu.json"),
) -> None:
    """Measure part after part."""
    parts = [part for part in only.split(",") if part] or [*PARTS]
    if unknown := [part for part in parts if part not in PARTS]:
        raise SystemExit(f"there is no part {unknown[0]!r}; choose from {', '.join(PARTS)}")
    if device not in ("cuda", "cpu"):
        raise SystemExit(f"--device is {device!r}, but must be cuda or cpu")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # which ends the part, too
    out.unlink(missing_ok=True)
    code = run_parts(
        parts, device=device, scale=scale, out=out.resolve(), ends=time.monotonic() + 60 * minutes
    )
    print(f"results: {out}", flush=True)
    sys.exit(code)


def run_parts(parts: Sequence[str], *, device: str, scale: float, out: Path, ends: float) -> int:
    """Run parts, each in its process and within its share of the time; return the exit code.

    Args:
        parts: by name, in order.
        device: ``cuda`` or ``cpu``.
        scale: of all counts.
        out: the file of results.
        ends: when all must be over, by ``time.monotonic``.
    """
    code = 0
    for number, part in enumerate(parts):
        left = ends - time.monotonic()
        if left < _LEAST_S:
            print(f"\n== {part}: left out, no time is left", flush=True)
            continue
        seconds = left * PARTS[part] / sum(PARTS[other] for other in parts[number:])
        print(f"\n== {part}, {seconds:.0f} s", flush=True)
        began = time.monotonic()
        settings = {"device": device, "scale": scale, "ends": began + seconds, "out": str(out)}
        failed = _run(part, settings, within=min(seconds + _GRACE_S, left))
        print(f"-- {part} took {time.monotonic() - began:.0f} s{failed}", flush=True)
        code = code or int(bool(failed))
        if part == "device" and failed:
            return code
    return code


def _run(part: str, settings: Mapping[str, Any], *, within: float) -> str:
    """Run a part's process; return what went wrong, if anything did."""
    path = os.pathsep.join([str(_HERE), str(_HERE.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "on_gpu", part, json.dumps(settings)]
    # A session of its own, so that it can be ended with the processes that it has started.
    process = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": path.rstrip(os.pathsep)}, start_new_session=True
    )
    try:
        code = process.wait(within)
    except subprocess.TimeoutExpired:
        return f"; ended after {within:.0f} s; what it had measured is in the file"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return f"; it failed with {code}" if code else ""


if __name__ == "__main__":
    typer.run(main)
