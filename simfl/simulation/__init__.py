"""From a scenario to a result: the pre-flight, the round loop, the run's folder."""

from simfl.simulation.api import open_run, resume, run
from simfl.simulation.backends import Backend
from simfl.simulation.build import Simulation, build
from simfl.simulation.rounds import run_rounds
from simfl.simulation.runner import Result, Run, RunOptions

__all__ = [
    "Backend",
    "Result",
    "Run",
    "RunOptions",
    "Simulation",
    "build",
    "open_run",
    "resume",
    "run",
    "run_rounds",
]
