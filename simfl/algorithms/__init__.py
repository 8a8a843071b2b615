"""Algorithms: what a round is, on the clients' side and on the server's."""

from simfl.algorithms.algorithm import (
    Algorithm,
    FedAvg,
    Local,
    Number,
    ServerSide,
    Total,
    Update,
)
from simfl.models.model_function import Objective
from simfl.states import State

__all__ = [
    "Algorithm",
    "FedAvg",
    "Local",
    "Number",
    "Objective",
    "ServerSide",
    "State",
    "Total",
    "Update",
]
