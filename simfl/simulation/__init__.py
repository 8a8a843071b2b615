"""From a scenario to a result: the pre-flight, the round loop, the run's folder."""

from simfl.simulation.backends import Backend
from simfl.simulation.build import Simulation, build
from simfl.simulation.rounds import run_rounds
from simfl.simulation.runner import Result, resume, run, run_by_round

__all__ = [
    "Backend",
    "Result",
    "Simulation",
    "build",
    "resume",
    "run",
    "run_by_round",
    "run_rounds",
]
