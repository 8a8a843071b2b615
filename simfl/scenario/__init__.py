"""The scenario: one YAML file in, typed and checked objects out."""

from simfl.scenario.baselines import Baseline, baseline_of
from simfl.scenario.loading import find_scenario, load_scenario
from simfl.scenario.objects import Objects, find_missing, list_own, own_objects
from simfl.scenario.schema import Scenario
from simfl.scenario.validators import Trust, own_address
from simfl.sections import (
    ClientSection,
    ClusterSection,
    DataSection,
    EvaluationSection,
    ModelSection,
    OptimizerSection,
    OutputSection,
    ServerSection,
)
from simfl.shipped import shipped_scenarios

__all__ = [
    "Baseline",
    "ClientSection",
    "ClusterSection",
    "DataSection",
    "EvaluationSection",
    "ModelSection",
    "Objects",
    "OptimizerSection",
    "OutputSection",
    "Scenario",
    "ServerSection",
    "Trust",
    "baseline_of",
    "find_missing",
    "find_scenario",
    "list_own",
    "load_scenario",
    "own_address",
    "own_objects",
    "shipped_scenarios",
]
