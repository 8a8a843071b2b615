"""pfl-research on the same device, in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from recipe import Recipe
from turns import Contestant

from on_gpu.place import Place

__all__ = ["pfl_contestant", "python_of_pfl"]

_HERE = Path(__file__).resolve().parents[1]


def python_of_pfl() -> str | None:
    """Return the Python that has pfl: that of its environment, or this one; None: neither."""
    own = _HERE / "peers" / ".venv" / "pfl" / "bin" / "python"
    if own.exists():
        return str(own)
    found = importlib.util.find_spec("pfl")
    return sys.executable if found is not None and found.origin else None


def pfl_contestant(place: Place, recipe: Recipe, folder: Path, stack: ExitStack) -> Contestant:
    """Start pfl's process, which follows the recipe.

    Raises:
        SystemExit: if it is not installed, or ends at once.
    """
    python = python_of_pfl()
    if python is None:
        raise SystemExit("not installed; python benchmarks/peers/setup.py --here pfl")
    file = folder / "recipe.npz"
    recipe.write(file)
    contestant = Contestant(
        "pfl",
        [python, str(_HERE / "peers" / "pfl_loop.py"), str(file)],
        log=folder / "pfl.log",
        environment={
            "PYTHONPATH": os.pathsep.join([str(_HERE), os.environ.get("PYTHONPATH", "")]),
            "PFL_PYTORCH_DEVICE": place.device,
            "BENCH_RANKS": "1",
        },
    )
    contestant.start()
    stack.callback(contestant.close)
    return contestant
