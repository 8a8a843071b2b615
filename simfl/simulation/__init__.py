"""From a scenario to a result: the pre-flight, the round loop, the run's folder."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simfl.simulation.api import federation, open_run, resume, run, run_by_round
    from simfl.simulation.backends import Backend
    from simfl.simulation.building import Simulation, build
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

_MODULES = {
    "Backend": "simfl.simulation.backends",
    "ClientUpdate": "simfl.simulation.totals",
    "Federation": "simfl.simulation.loop",
    "Result": "simfl.simulation.results",
    "Run": "simfl.simulation.runner",
    "RunOptions": "simfl.simulation.runner",
    "Saved": "simfl.simulation.totals",
    "Simulation": "simfl.simulation.building",
    "Total": "simfl.simulation.totals",
    "Verdict": "simfl.simulation.verification",
    "build": "simfl.simulation.building",
    "federation": "simfl.simulation.api",
    "open_run": "simfl.simulation.api",
    "resume": "simfl.simulation.api",
    "run": "simfl.simulation.api",
    "run_by_round": "simfl.simulation.api",
    "run_rounds": "simfl.simulation.rounds",
    "verify": "simfl.simulation.verification",
}


def __getattr__(name: str) -> object:
    # Imported when first used, so that a run can start before torch is imported.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
