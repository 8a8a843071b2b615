"""The Optimizer, and the plug-ins it is made of; importing it registers those of simfl."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from simfl.errors import ContractError
from simfl.optimizer.adaptive import Adagrad, Adam, RmsProp, Yogi
from simfl.optimizer.local import LocalOptimizer
from simfl.optimizer.momentum import Ewma, Momentum, YogiMomentum
from simfl.optimizer.optimizer import Optimizer
from simfl.optimizer.plugin import AuxVar, Context, OptiModule, Regularizer, State
from simfl.optimizer.privacy import GaussianNoise, L2Clipping, L2GlobalClipping
from simfl.optimizer.regularizers import FedProx, Lasso, Ridge
from simfl.optimizer.scaffold import ScaffoldClient, ScaffoldServer
from simfl.optimizer.schedule import Schedule
from simfl.optimizer.schedules import (
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    InverseTime,
    Linear,
    Piecewise,
    Polynomial,
    Triangular,
    WarmUp,
)
from simfl.states import KeptState, OptimizerState

__all__ = [
    "Adagrad",
    "Adam",
    "AuxVar",
    "Constant",
    "Context",
    "ContractError",
    "Cosine",
    "CosineRestarts",
    "Ewma",
    "Exponential",
    "FedProx",
    "GaussianNoise",
    "InverseTime",
    "KeptState",
    "L2Clipping",
    "L2GlobalClipping",
    "Lasso",
    "Linear",
    "LocalOptimizer",
    "Momentum",
    "OptiModule",
    "Optimizer",
    "OptimizerState",
    "Piecewise",
    "Polynomial",
    "Regularizer",
    "Ridge",
    "RmsProp",
    "ScaffoldClient",
    "ScaffoldServer",
    "Schedule",
    "State",
    "Triangular",
    "WarmUp",
    "Yogi",
    "YogiMomentum",
    "check_plugin",
    "list_optim_modules",
    "list_optim_regularizers",
    "list_rate_schedules",
]


def list_optim_modules() -> dict[str, type[OptiModule]]:
    """Return the modules by name, those of others included; a copy."""
    return dict(OptiModule.registry)


def list_optim_regularizers() -> dict[str, type[Regularizer]]:
    """Return the regularizers by name, those of others included; a copy."""
    return dict(Regularizer.registry)


def list_rate_schedules() -> dict[str, type[Schedule]]:
    """Return the schedules by name, those of others included; a copy."""
    return dict(Schedule.registry)


def check_plugin(plugin: OptiModule | Regularizer, **options: Any) -> None:
    """Check that a plug-in keeps its contract: ``simfl.testing.check_plugin``."""
    import_module("simfl.testing").check_plugin(plugin, **options)
