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
from simfl.algorithms.apfl import APFL
from simfl.algorithms.ditto import Ditto
from simfl.algorithms.expectation_maximization import ExpectationMaximization
from simfl.algorithms.fedbabu import FedBABU
from simfl.algorithms.feddf import FedDF
from simfl.algorithms.fedproto import FedProto
from simfl.algorithms.fedrep import FedRep
from simfl.algorithms.gossip import Gossip
from simfl.algorithms.heterofl import HeteroFL
from simfl.algorithms.hierarchical import Hierarchical
from simfl.algorithms.histograms import Histograms
from simfl.algorithms.ifca import IFCA
from simfl.algorithms.k_means import KMeans
from simfl.algorithms.moon import Moon
from simfl.algorithms.per_fedavg import PerFedAvg
from simfl.algorithms.pfedme import PFedMe
from simfl.models.model_function import Objective
from simfl.states import State

__all__ = [
    "APFL",
    "IFCA",
    "Algorithm",
    "Ditto",
    "ExpectationMaximization",
    "FedAvg",
    "FedBABU",
    "FedDF",
    "FedProto",
    "FedRep",
    "Gossip",
    "HeteroFL",
    "Hierarchical",
    "Histograms",
    "KMeans",
    "Local",
    "Moon",
    "Number",
    "Objective",
    "PFedMe",
    "PerFedAvg",
    "ServerSide",
    "State",
    "Total",
    "Update",
]
