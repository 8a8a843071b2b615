"""pfl-research as a contestant: a process for each core, which trains its half of the cohort.

Source: Granqvist et al., 2024, https://arxiv.org/abs/2404.06430, https://github.com/apple/pfl-research
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import build_module
from recipe import Recipe, read_recipe
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from turns import Turns

RANKS = int(os.environ.get("BENCH_RANKS", "2"))
"""Processes. One on a GPU: NCCL, by which pfl adds up there, takes one for each."""


class Trained(nn.Module):
    """The module as pfl wants it, which counts its losses too."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.module = build_module(recipe.workload)
        state = {name: torch.from_numpy(array) for name, array in recipe.weights.items()}
        self.module.load_state_dict(state)
        self.losses: Tensor | float = 0.0  # their sum, 0-d
        self.seen = 0  # examples

    def loss(self, inputs_B: Tensor, targets_B: Tensor) -> Tensor:
        """Return what a step minimises."""
        loss = cross_entropy(self.module(inputs_B), targets_B)
        self.losses = self.losses + loss.detach().double() * len(targets_B)  # without a wait
        self.seen += len(targets_B)
        return loss

    def mean_loss(self) -> float:
        """Return the mean over what all ranks have seen since the last call."""
        sums = torch.tensor([float(self.losses), self.seen], dtype=torch.float64)
        if RANKS > 1:
            torch.distributed.all_reduce(sums)
        self.losses, self.seen = 0.0, 0
        losses, seen = sums.tolist()
        return float(losses / seen)

    def metrics(self, inputs_B: Tensor, targets_B: Tensor) -> dict[str, Any]:
        """Return nothing much: pfl evaluates in the first round, which only warms up."""
        from pfl.metrics import Weighted

        return {"examples": Weighted(len(targets_B), 1)}


def main() -> None:
    """Take turns: rank 0 at the runner's word, the other ones at rank 0's."""
    torch.set_num_threads(1)
    recipe = read_recipe(Path(sys.argv[1]))
    work = recipe.workload
    if work.momentum or work.prox or work.as_bytes or (work.epochs or 1) > 1:
        raise SystemExit("with pfl there is SGD on floats and one epoch only; leave it out")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        run(recipe, turns=None)
        return
    turns = Turns()  # first, so that nothing else writes to its pipe
    if RANKS == 1:
        run(recipe, turns=turns)
        return
    with _other_ranks():
        run(recipe, turns=turns)


def run(recipe: Recipe, *, turns: Turns | None) -> None:
    """Train all rounds."""
    # Joins the ranks when it is imported.
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.aggregate.weighting import WeightByDatapoints
    from pfl.hyperparam import NNTrainHyperParams
    from pfl.model.pytorch import PyTorchModel

    work = recipe.workload
    trained = Trained(recipe)
    is_even = work.examples[0] == work.examples[1]
    algorithm, params = make_algorithm(recipe)
    algorithm.run(
        backend=SimulatedBackend(
            training_data=make_data(recipe),
            val_data=None,
            postprocessors=[] if is_even else [WeightByDatapoints()],
        ),
        model=PyTorchModel(trained, torch.optim.SGD, torch.optim.SGD(trained.parameters(), lr=1.0)),
        algorithm_params=params,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1,
            local_learning_rate=work.lrate,
            local_batch_size=work.batch_size,
        ),
        callbacks=[make_pace(trained, turns)],
    )


def make_pace(trained: Trained, turns: Turns | None) -> Any:
    """Return the callback that waits for the turn before each round, and reports it afterwards."""
    from pfl.callback.base import TrainingProcessCallback
    from pfl.metrics import Metrics

    class Pace(TrainingProcessCallback):  # type: ignore[misc]
        """Waits for rank 0's turns; a broadcast notifies the other ranks."""

        def on_train_begin(self, *, model: Any) -> Any:
            self._wait()
            return Metrics()

        def after_central_iteration(self, *_: Any, **__: Any) -> Any:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds = time.perf_counter() - self._began
            loss = trained.mean_loss()
            if turns is not None:
                turns.add(seconds, loss)
            return not self._wait(), Metrics()

        def _wait(self) -> bool:
            goes_on = torch.tensor([turns is not None and turns.wait()], dtype=torch.int32)
            if RANKS > 1:
                torch.distributed.broadcast(goes_on, src=0)
            self._began = time.perf_counter()
            return bool(goes_on)

    return Pace()


def make_data(recipe: Recipe) -> Any:
    """Return pfl's federated data: this rank's share of each cohort, whose rows are in order."""
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDatasetBase
    from pfl.internal.ops.pytorch_ops import get_default_device

    data = recipe.workload.make_examples()
    arrays = (data["inputs"], data["targets"])
    inputs, targets = (torch.from_numpy(array).to(get_default_device()) for array in arrays)
    rounds = recipe.rounds()
    rank = torch.distributed.get_rank() if RANKS > 1 else 0

    class Cohorts(FederatedDatasetBase):  # type: ignore[misc]
        """The recipe's."""

        def __next__(self) -> Any:
            raise NotImplementedError

        def get_cohort(self, cohort_size: int) -> Iterator[Any]:
            for client, _, batches in next(rounds)[rank::RANKS]:
                rows = torch.from_numpy(np.concatenate(batches))
                yield Dataset([inputs[rows], targets[rows]], user_id=str(client)), 0

    return Cohorts()


def make_algorithm(recipe: Recipe) -> tuple[Any, Any]:
    """Return the algorithm and its parameters."""
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.algorithm.scaffold import SCAFFOLD, SCAFFOLDParams
    from pfl.data.user_state import InMemoryUserStateStorage

    work = recipe.workload
    usual: dict[str, Any] = {
        "central_num_iterations": recipe.num_rounds,
        "evaluation_frequency": recipe.num_rounds + 1,
        "train_cohort_size": work.cohort,
        "val_cohort_size": 0,
    }
    if not work.scaffold:
        return FederatedAveraging(), NNAlgorithmParams(**usual)
    return SCAFFOLD(), SCAFFOLDParams(
        **usual,
        population=work.population,
        use_gradient_as_control_variate=False,
        # Each process has its own, which is faster than right: a client's variate is new where the
        # client has not been before. The storage on disk cannot be read back with this torch.
        user_state_storage=InMemoryUserStateStorage(),
    )


@contextmanager
def _other_ranks() -> Iterator[None]:
    """Start the ranks but the first, and join this process to them, as torchrun would."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        "TORCHELASTIC_RUN_ID": "bench",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(RANKS),
    }
    others = [
        subprocess.Popen([sys.executable, *sys.argv], env=os.environ | common | {"RANK": str(rank)})
        for rank in range(1, RANKS)
    ]
    os.environ.update(common | {"RANK": "0"})
    try:
        yield
    except BaseException:
        for other in others:
            other.kill()
        raise
    for other in others:
        other.wait()


if __name__ == "__main__":
    main()
