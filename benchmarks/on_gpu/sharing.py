"""Several client actors on one GPU: W1 on Ray with 1, 2 and 4 of them, and as many as fit.

Without NVIDIA's MPS, the kernels of several processes take turns on the device; more actors gain
only where one of them leaves it idle.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import tempfile
from pathlib import Path

from turns import Contestant

from on_gpu.place import Place

__all__ = ["run"]

_HERE = Path(__file__).resolve().parents[1]
_WARM_UP = 2
_NEEDED_S = 30.0
"""Ray, actors and a few rounds; with less time left no cluster is started."""
_LEAST_SHARE = 0.125


def run(place: Place, actors: tuple[int | None, ...] = (1, 2, 4, None)) -> None:
    """Measure rounds a second by the number of actors, one cluster after the other.

    Args:
        place: where it runs.
        actors: numbers of actors; None: ``auto``, with an eighth of the GPU reserved for each.
    """
    if importlib.util.find_spec("ray") is None:
        place.skip("there is no Ray here; pip install -e . brings it")
        return
    for number, count in enumerate(actors):
        label = "auto" if count is None else str(count)
        if place.left < _NEEDED_S:
            place.say(f"actors {label}: left out, {max(0.0, place.left):.0f} s are left")
            continue
        try:
            _measure(place, count, label, within=place.left / (len(actors) - number))
        except SystemExit as error:
            place.say(f"actors {label}: {error}")
            place.put(f"actors {label}", {"error": str(error)})


def _measure(place: Place, count: int | None, label: str, *, within: float) -> None:
    share = (_LEAST_SHARE if count is None else 1 / count) if place.is_cuda else 0
    settings = [f"cluster.actors={label}", f"cluster.num_gpus={share}", "cluster.num_cpus=1"]
    options = [option for setting in settings for option in ("--set", setting)]
    command = [sys.executable, str(_HERE / "run_simfl.py"), "W1", f"--scale={place.scale}"]
    with tempfile.TemporaryDirectory(prefix="simfl-gpu-") as folder:
        log = Path(folder) / "run.log"
        contestant = Contestant(
            f"simfl with {label} actors",
            command + options,
            log=log,
        )
        until = place.left - within
        contestant.start()
        try:
            contestant.take_turn(_WARM_UP)
            pace = contestant.take_turn(1)[0].seconds
            rounds = max(1, min(200, int(0.7 * (place.left - until) / pace)))
            done = contestant.take_turn(rounds)
        finally:
            contestant.close()
    seconds = statistics.median(round.seconds for round in done)
    figures = {"rounds": rounds, "seconds_a_round": seconds, "rounds_a_second": 1 / seconds}
    place.put(f"actors {label}", figures)
    place.say(f"actors {label:<5}{1 / seconds:>9.2f} rounds/s, {rounds} rounds")
