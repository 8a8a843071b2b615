"""Algorithms: what a round is, on the clients' side and on the server's."""

from simfl.algorithms.adaptive_fedprox import AdaptiveFedProx
from simfl.algorithms.afl import AFL
from simfl.algorithms.algorithm import (
    Algorithm,
    FedAvg,
    Fresh,
    Local,
    Number,
    ServerSide,
    State,
    Total,
    Update,
)
from simfl.algorithms.apfl import APFL
from simfl.algorithms.centralized import Centralized
from simfl.algorithms.ditto import Ditto
from simfl.algorithms.ensemble import Ensemble
from simfl.algorithms.expectation_maximization import ExpectationMaximization
from simfl.algorithms.fedbabu import FedBABU
from simfl.algorithms.feddc import FedDC
from simfl.algorithms.feddf import FedDF
from simfl.algorithms.feddyn import FedDyn
from simfl.algorithms.fedexp import FedExP
from simfl.algorithms.fedlin import FedLin
from simfl.algorithms.fednova import FedNova
from simfl.algorithms.fedproto import FedProto
from simfl.algorithms.fedrep import FedRep
from simfl.algorithms.fedsgd import FedSGD
from simfl.algorithms.flexlora import FlexLoRA
from simfl.algorithms.flora import FLoRA
from simfl.algorithms.full_gradient import full_gradient
from simfl.algorithms.gossip import Gossip
from simfl.algorithms.heterofl import HeteroFL
from simfl.algorithms.hierarchical import Hierarchical
from simfl.algorithms.histograms import Histograms
from simfl.algorithms.ifca import IFCA
from simfl.algorithms.k_means import KMeans
from simfl.algorithms.local_only import LocalOnly, OneShot
from simfl.algorithms.mime import Mime
from simfl.algorithms.mime_lite import MimeLite
from simfl.algorithms.moon import Moon
from simfl.algorithms.per_fedavg import PerFedAvg
from simfl.algorithms.pfedme import PFedMe
from simfl.algorithms.q_fedavg import QFedAvg
from simfl.algorithms.scaffold import Scaffold
from simfl.algorithms.server_ema import ServerEMA
from simfl.algorithms.superfed import SuPerFed
from simfl.models.model_function import Objective

__all__ = [
    "AFL",
    "APFL",
    "IFCA",
    "AdaptiveFedProx",
    "Algorithm",
    "Centralized",
    "Ditto",
    "Ensemble",
    "ExpectationMaximization",
    "FLoRA",
    "FedAvg",
    "FedBABU",
    "FedDC",
    "FedDF",
    "FedDyn",
    "FedExP",
    "FedLin",
    "FedNova",
    "FedProto",
    "FedRep",
    "FedSGD",
    "FlexLoRA",
    "Fresh",
    "Gossip",
    "HeteroFL",
    "Hierarchical",
    "Histograms",
    "KMeans",
    "Local",
    "LocalOnly",
    "Mime",
    "MimeLite",
    "Moon",
    "Number",
    "Objective",
    "OneShot",
    "PFedMe",
    "PerFedAvg",
    "QFedAvg",
    "Scaffold",
    "ServerEMA",
    "ServerSide",
    "State",
    "SuPerFed",
    "Total",
    "Update",
    "full_gradient",
]
