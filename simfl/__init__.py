"""simfl: federated-learning simulation on Ray.

>>> import simfl
>>> result = simfl.run("configs/quickstart.yaml", backend="inline")    # doctest: +SKIP
>>> result.history[-1]["accuracy"]                                     # doctest: +SKIP
0.93
"""

from importlib import import_module
from typing import TYPE_CHECKING

from simfl.version import __version__

if TYPE_CHECKING:
    from simfl.scenario import Scenario, load_scenario
    from simfl.simulation import (
        Federation,
        Result,
        Total,
        Verdict,
        federation,
        resume,
        run,
        run_by_round,
        verify,
    )
    from simfl.sweep import SweepResult, resume_sweep, run_sweep

__all__ = [
    "Federation",
    "Result",
    "Scenario",
    "SweepResult",
    "Total",
    "Verdict",
    "__version__",
    "federation",
    "load_scenario",
    "resume",
    "resume_sweep",
    "run",
    "run_by_round",
    "run_sweep",
    "verify",
]

_HOMES = {
    "Federation": "simfl.simulation",
    "Result": "simfl.simulation",
    "Scenario": "simfl.scenario",
    "SweepResult": "simfl.sweep",
    "Total": "simfl.simulation",
    "Verdict": "simfl.simulation",
    "federation": "simfl.simulation",
    "load_scenario": "simfl.scenario",
    "resume": "simfl.simulation",
    "resume_sweep": "simfl.sweep",
    "run": "simfl.simulation",
    "run_by_round": "simfl.simulation",
    "run_sweep": "simfl.sweep",
    "verify": "simfl.simulation",
}


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> object:
    # Imported when first used: `simfl --help` needs neither torch nor ray.
    if name not in _HOMES:
        raise AttributeError(f"module 'simfl' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
