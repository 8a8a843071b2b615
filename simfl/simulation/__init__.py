"""From a scenario to a result: the pre-flight, the round loop, the run's folder."""

from simfl.simulation.api import federation, open_run, resume, run, run_by_round
from simfl.simulation.backends import Backend
from simfl.simulation.build import Simulation, build
from simfl.simulation.loop import Federation
from simfl.simulation.results import Result
from simfl.simulation.rounds import run_rounds
from simfl.simulation.runner import Run, RunOptions
from simfl.simulation.totals import ClientUpdate, Saved, Total
from simfl.simulation.verification import Verdict, verify

__all__ = [
    "Backend",
    "ClientUpdate",
    "Federation",
    "Result",
    "Run",
    "RunOptions",
    "Saved",
    "Simulation",
    "Total",
    "Verdict",
    "build",
    "federation",
    "open_run",
    "resume",
    "run",
    "run_by_round",
    "run_rounds",
    "verify",
]
