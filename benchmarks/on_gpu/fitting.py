"""Memory of a GPU: what ``actors: auto`` predicts of a first stack, and what rounds then use."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from workloads import find_workload

import simfl
from on_gpu.place import Place
from simfl.client import ClientHost
from simfl.engine.device import measure_use
from simfl.messages import Broadcast, Chunk
from simfl.simulation import Simulation, build

__all__ = ["run"]

_ROUNDS = 3


def run(place: Place, workloads: tuple[str, ...] = ("W1", "W3")) -> None:
    """Compare prediction and use; what this process has used before of the GPU counts in both."""
    if not place.is_cuda:
        place.skip("only a GPU's memory is fitted")
        return
    for name in workloads:
        simulation = _build(place, name)
        recipe = replace(simulation.client, stack=simulation.stacks[0])
        host = ClientHost(recipe, simulation.dataset, device="cuda:0")
        weights = simulation.server.build().get_weights()
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        largest = _largest(simulation)
        host.train_chunk(largest, Broadcast(1, weights, {}), [None] * largest.cohort_size)
        predicted = measure_use("cuda:0")
        assert predicted is not None, "it is a GPU"
        for round in range(1, _ROUNDS + 1):
            cohort = tuple(int(client) for client in simulation.plan_round(round).clients)
            chunk = Chunk(round, 0, cohort, len(cohort))
            host.train_chunk(chunk, Broadcast(round, weights, {}), [None] * len(cohort))
        used = measure_use("cuda:0")
        assert used is not None, "it is a GPU"
        figures: dict[str, Any] = {
            "stack": recipe.stack,
            "predicted": predicted.used,
            "used": used.used,
            "held_before_training": held,
            "allocated_at_most": torch.cuda.max_memory_allocated(),
            "reserved_at_most": torch.cuda.max_memory_reserved(),
            "actors_predicted": predicted.processes_that_fit(),
            "actors_that_fit": used.processes_that_fit(),
        }
        place.put(name, figures)
        place.say(
            f"{name}, stacks of {figures['stack']}: predicted {predicted.used / 1e6:,.0f} MB an "
            f"actor, used {used.used / 1e6:,.0f} MB, allocated "
            f"{figures['allocated_at_most'] / 1e6:,.0f} MB at most; actors "
            f"{figures['actors_predicted']} and {figures['actors_that_fit']}"
        )
        del host
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _build(place: Place, name: str) -> Simulation:
    plain = find_workload(name, scale=place.scale).scenario(rounds=_ROUNDS)
    return build(simfl.load_scenario(plain | {"cluster": {"num_gpus": 1.0}}))


def _largest(simulation: Simulation) -> Chunk:
    """Return a stack of the clients with the most examples, as the first actor trains it."""
    examples = simulation.dataset.num_train_examples()
    stack = np.argsort(-examples, kind="stable")[: simulation.stacks[0]].tolist()
    return Chunk(1, 0, tuple(stack), len(stack))
