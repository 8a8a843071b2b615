"""From a scenario to a result: the pre-flight, the round loop, the run's folder."""

from simfl.simulation.build import Simulation, build
from simfl.simulation.rounds import run_rounds
from simfl.simulation.run import Backend, Result, run

__all__ = ["Backend", "Result", "Simulation", "build", "run", "run_rounds"]
