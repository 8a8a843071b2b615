"""Flower as a contestant: its simulation runtime on Ray, with an actor for each core.

Source: Beutel et al., 2020, https://arxiv.org/abs/2007.14390, https://flower.ai
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr_client import FOLDER, RECIPE, app
from recipe import Recipe, read_recipe
from turns import Turns

ACTORS = 2


def main() -> None:
    """Take turns."""
    turns = Turns()
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    recipe_file = Path(sys.argv[1]).resolve()
    recipe = read_recipe(recipe_file)
    work = recipe.workload
    if work.momentum or work.prox or work.scaffold or work.as_bytes:
        raise SystemExit("with Flower there is SGD on floats only; leave it out")
    with tempfile.TemporaryDirectory(prefix="flwr-bench-") as folder:
        for name, array in work.make_examples().items():
            np.save(Path(folder, f"{name}.npy"), array)
        os.environ[RECIPE], os.environ[FOLDER] = str(recipe_file), folder
        simulate(recipe, turns)


def simulate(recipe: Recipe, turns: Turns) -> None:
    """Run all rounds."""
    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation

    server = ServerApp()

    @server.main()  # type: ignore[untyped-decorator]
    def run(grid: Any, _: Any) -> None:
        first = {name: torch.from_numpy(array) for name, array in recipe.weights.items()}
        strategy = make_strategy(turns, cohort=recipe.workload.cohort)
        strategy.start(grid, ArrayRecord(first), num_rounds=recipe.num_rounds)

    run_simulation(
        server_app=server,
        client_app=app,
        num_supernodes=recipe.workload.cohort,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": ACTORS, "include_dashboard": False},
        },
    )


def make_strategy(turns: Turns, *, cohort: int) -> Any:
    """Return FedAvg over the recipe's cohorts, which waits for its turn before each round."""
    from flwr.serverapp.strategy import FedAvg

    class Paced(FedAvg):  # type: ignore[misc]
        """There is a node for each place in a cohort."""

        def configure_train(
            self, server_round: int, arrays: Any, config: Any, grid: Any
        ) -> Iterable[Any]:
            if not turns.wait():
                raise SystemExit("the runner has gone")
            self._began = time.perf_counter()
            nodes = sorted(grid.get_node_ids())
            return [
                train_message(arrays, round=server_round, place=place, node=nodes[place])
                for place in range(cohort)
            ]

        def aggregate_train(self, server_round: int, replies: Iterable[Any]) -> Any:
            replies = list(replies)
            result = super().aggregate_train(server_round, replies)
            seconds = time.perf_counter() - self._began
            metrics = [reply.content["metrics"] for reply in replies]
            losses = sum(metric["losses"] for metric in metrics)
            turns.add(seconds, losses / sum(metric["seen"] for metric in metrics))
            return result

    return Paced(fraction_evaluate=0.0)


def train_message(arrays: Any, *, round: int, place: int, node: int) -> Message:
    """Tell a node to train the client at a place in the round's cohort."""
    config = ConfigRecord({"round": round, "place": place})
    content = RecordDict({"arrays": arrays, "config": config})
    return Message(content=content, message_type="train", dst_node_id=node)


if __name__ == "__main__":
    main()
