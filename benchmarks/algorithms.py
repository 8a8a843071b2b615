"""What algorithms cost: CPU time of a round's clients, as ratios to FedAvg, in one process.

128 clients of a perceptron 60-32-10 with 50 examples each, batches of 10, in stacks and one at a
time, on one thread. Algorithms take turns, and the median of the ratios within a turn is shown,
also for each training that an algorithm has in a round. Clients keep their states from the turn
before. CPU time, as other work on the machine does not count in it.

    python benchmarks/algorithms.py
    python benchmarks/algorithms.py --stack 1 --only fedavg,ditto
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import typer

from simfl.aggregation import Mean
from simfl.algorithms import Algorithm
from simfl.client import ClientHost, ClientRecipe
from simfl.data import Examples, FederatedDataset
from simfl.messages import Broadcast, Chunk
from simfl.models import MLP, CrossEntropy, Loss, data_shape
from simfl.optimizer import Optimizer
from simfl.sections import ClientSection, OptimizerSection
from simfl.states import Kept, KeptState

CLIENTS, FEATURES, EACH, BATCH, EPOCHS = 128, 60, 50, 10, 2


@dataclass(frozen=True)
class Case:
    """An algorithm, or a loss under FedAvg."""

    name: str
    trainings: float = 1.0
    """How many times FedAvg's gradients a round takes."""
    config: dict[str, Any] | None = None
    loss: tuple[str, dict[str, Any]] | None = None

    def algorithm(self) -> Algorithm:
        """Build it."""
        name = "fedavg" if self.loss else self.name
        return Algorithm.from_name(name, {} if self.loss else self.config or {})


CASES = (
    Case("fedavg"),
    Case("feddyn"),
    Case("fednova"),
    Case("ditto", trainings=2),
    Case("fedrep", trainings=2, config={"head": ["output"], "head_epochs": EPOCHS}),
    Case("pfedme", trainings=5, config={"inner_steps": 5}),
    Case("moon", trainings=3),
    Case("sam", trainings=2, loss=("sam", {"rho": 0.05})),
)


class Course:
    """A case's clients, and the CPU seconds of each of its rounds."""

    def __init__(self, case: Case, data: FederatedDataset, stack: int) -> None:
        self.case = case
        loss = Loss.from_name(*case.loss) if case.loss else CrossEntropy()
        work = ClientSection(
            optimizer=OptimizerSection(lrate=0.1), epochs=EPOCHS, batch_size=BATCH, stack=stack
        )
        recipe = ClientRecipe(
            spec=MLP(hidden=(32,)),
            shape=data_shape(data.train.inputs, data.train.targets),
            loss=loss,
            metrics=None,
            optimizer=Optimizer(0.1),
            aggregator=Mean(),
            work=work,
            seed=0,
            stack=stack,
            algorithm=case.algorithm(),
        )
        self._host = ClientHost(recipe, data)
        self._weights = recipe.build_model().get_weights()
        state = recipe.algorithm.start(self._weights, lambda draw: self._weights * (1.0 + draw))
        self._sent = recipe.algorithm.send(state)
        self._states: list[KeptState | None] = [None] * CLIENTS
        self._round = 0
        self.seconds: list[float] = []

    def run_round(self) -> None:
        """Train all clients, from what they have kept."""
        self._round += 1
        began = time.process_time()
        result = self._host.train_chunk(
            Chunk(self._round, 0, tuple(range(CLIENTS)), CLIENTS),
            Broadcast(self._round, self._weights, {}, self._sent),
            self._states,
        )
        self.seconds.append(time.process_time() - began)
        kept = result.states.values()
        self._states = [one.state if isinstance(one, Kept) else None for one in kept]


def main(
    stack: Annotated[int, typer.Option(help="Clients trained in one computation.")] = 32,
    turns: Annotated[int, typer.Option(help="Rounds of each.")] = 15,
    only: Annotated[str | None, typer.Option(help="Names, with commas.")] = None,
) -> None:
    """Print each algorithm's milliseconds a round, and its ratio to FedAvg."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(CLIENTS * EACH, FEATURES)).astype(np.float32)
    targets = rng.integers(10, size=len(inputs))
    offsets = np.arange(CLIENTS + 1) * EACH
    data = FederatedDataset(Examples(inputs, targets), np.arange(len(inputs)), offsets, offsets[1:])
    wanted = None if only is None else ["fedavg", *only.split(",")]
    known = [case for case in CASES if wanted is None or case.name in wanted]
    courses = [Course(case, data, stack) for case in known]
    for _ in range(turns + 1):
        for course in courses:
            course.run_round()
    baseline = courses[0].seconds[1:]
    print(
        f"stack {stack}\n{'algorithm':>12} {'ms a round':>11} {'to fedavg':>10} {'a training':>11}"
    )
    for course in courses:
        own = course.seconds[1:]
        ratio = statistics.median(a / b for a, b in zip(own, baseline, strict=True))
        print(
            f"{course.case.name:>12} {statistics.median(own) * 1e3:>11.1f} {ratio:>10.2f} "
            f"{ratio / course.case.trainings:>11.2f}"
        )


if __name__ == "__main__":
    typer.run(main)
