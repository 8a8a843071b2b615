"""What a Flower client does: an actor keeps model and data from one client to the next."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from models import build_module
from recipe import ClientRound, read_recipe
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

RECIPE, FOLDER = "BENCH_RECIPE", "BENCH_FOLDER"
"""Environment variables, since an actor is given nothing but messages."""

app = ClientApp()


class Resident:
    """What an actor keeps."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        recipe = read_recipe(Path(os.environ[RECIPE]))
        self.lrate = recipe.workload.lrate
        self.module: nn.Module = build_module(recipe.workload)
        self.rounds: list[list[ClientRound]] = list(recipe.rounds())
        # Mapped, so that all actors share one copy.
        folder = Path(os.environ[FOLDER])
        self.inputs = np.load(folder / "inputs.npy", mmap_mode="r")
        self.targets = np.load(folder / "targets.npy", mmap_mode="r")

    def train(self, client: ClientRound) -> tuple[float, int]:
        """Train from the module's weights; return the sum of losses, and the examples seen."""
        optimizer = torch.optim.SGD(self.module.parameters(), self.lrate)
        losses, seen = torch.zeros((), dtype=torch.float64), 0
        for rows_B in client.batches:
            optimizer.zero_grad()
            inputs_B, targets_B = self._read(rows_B)
            loss = cross_entropy(self.module(inputs_B), targets_B)
            loss.backward()
            optimizer.step()
            losses += loss.detach() * len(rows_B)
            seen += len(rows_B)
        return float(losses), seen

    def _read(self, rows_B: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.inputs[rows_B]), torch.from_numpy(self.targets[rows_B])


@cache
def resident() -> Resident:
    """Return this actor's."""
    return Resident()


@app.train()  # type: ignore[untyped-decorator]
def train(message: Message, _: Context) -> Message:
    """Train the client whose place in the cohort the message names."""
    host = resident()
    host.module.load_state_dict(message.content["arrays"].to_torch_state_dict())
    config = message.content["config"]
    client = host.rounds[config["round"] - 1][config["place"]]
    losses, seen = host.train(client)
    metrics = {"num-examples": client.num_examples, "losses": losses, "seen": seen}
    arrays = ArrayRecord(host.module.state_dict())
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord(metrics)})
    return Message(content=content, reply_to=message)
