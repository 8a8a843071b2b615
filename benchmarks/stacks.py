"""What stacks of clients gain by their size: CPU time of one client's step, in one process.

Dense models of several sizes, on one thread; a stack of 1 is one client at a time. The rule behind
``client.stack: auto`` (``simfl/client/stacking.py``) rests on these figures. CPU time, as other
work on the machine does not count in it; sizes take turns, and the smallest of the turns is shown.

    python benchmarks/stacks.py
    python benchmarks/stacks.py --batch-size 50 --module adam
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
import typer

from simfl.aggregation import Mean
from simfl.client import ClientHost, ClientRecipe
from simfl.data import Examples, FederatedDataset
from simfl.messages import Broadcast, Chunk
from simfl.models import CNN28, MLP, CrossEntropy, ModelSpec, data_shape
from simfl.optimizer import Optimizer
from simfl.sections import ClientSection, OptimizerSection

STEPS = 4
CLIENTS = 128
MODELS: dict[str, tuple[ModelSpec, tuple[int, ...]]] = {
    "10-10": (MLP(hidden=()), (10,)),
    "64-64-10": (MLP(hidden=(64,)), (64,)),
    "32-32-32-32-32-10": (MLP(hidden=(32,) * 4), (32,)),
    "64-200-10": (MLP(hidden=(200,)), (64,)),
    "128-128-128-10": (MLP(hidden=(128, 128)), (128,)),
    "784-64-10": (MLP(hidden=(64,)), (784,)),
    "784-100-10": (MLP(hidden=(100,)), (784,)),
    "784-200-10": (MLP(hidden=(200,)), (784,)),
    "256-1024-10": (MLP(hidden=(1024,)), (256,)),
    "784-512-10": (MLP(hidden=(512,)), (784,)),
    "cnn-28": (CNN28(), (28, 28)),
}


def main(
    batch_size: Annotated[int, typer.Option(help="Examples a step.")] = 10,
    module: Annotated[str | None, typer.Option(help="A module of the optimizer.")] = None,
    models: Annotated[str, typer.Option(help="By name, with commas.")] = ",".join(MODELS),
    sizes: Annotated[str, typer.Option(help="Of stacks.")] = "1,2,4,8,16,32,64,128",
    turns: Annotated[int, typer.Option(help="Of each size.")] = 5,
) -> None:
    """Print a row for each model: weights, microseconds one at a time, and the gain by size."""
    torch.set_num_threads(1)
    stacks = [int(size) for size in sizes.split(",")]
    print(f"{'model':>18} {'weights':>9} {'alone':>10}" + "".join(f"{s:>7}" for s in stacks[1:]))
    for name in models.split(","):
        spec, shape = MODELS[name]
        data = make_data(shape, batch_size)
        makers = {size: trainer(spec, data, size, batch_size, module) for size in stacks}
        num_weights = next(iter(makers.values()))[1]
        best = dict.fromkeys(stacks, float("inf"))
        for _ in range(turns):
            for size, (train, _) in makers.items():
                best[size] = min(best[size], cpu_seconds(train))
        alone = best[stacks[0]]
        gains = "".join(f"{alone / best[size]:>6.1f}x" for size in stacks[1:])
        print(f"{name:>18} {num_weights:>9,} {alone * 1e6 / CLIENTS / STEPS:>7.0f} us{gains}")


def make_data(shape: tuple[int, ...], batch_size: int) -> FederatedDataset:
    """Give each client as many random examples as its steps take."""
    each = STEPS * batch_size
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(each * CLIENTS, *shape)).astype(np.float32)
    targets = rng.integers(10, size=len(inputs))
    offsets = np.arange(CLIENTS + 1) * each
    return FederatedDataset(Examples(inputs, targets), np.arange(len(inputs)), offsets, offsets[1:])


def trainer(
    spec: ModelSpec, data: FederatedDataset, stack: int, batch_size: int, module: str | None
) -> tuple[Callable[[], Any], int]:
    """Return what trains all clients, and how many weights the model has."""
    recipe = ClientRecipe(
        spec=spec,
        shape=data_shape(data.train.inputs, data.train.targets),
        loss=CrossEntropy(),
        metrics=None,
        optimizer=Optimizer(0.1, modules=[module] if module else None),
        aggregator=Mean(),
        work=ClientSection(optimizer=OptimizerSection(lrate=0.1), epochs=1, batch_size=batch_size),
        seed=0,
        stack=stack,
    )
    host = ClientHost(recipe, data)
    weights = recipe.build_model().get_weights()
    chunk = Chunk(1, 0, tuple(range(CLIENTS)), CLIENTS)
    broadcast = Broadcast(1, weights, {})
    return lambda: host.train_chunk(chunk, broadcast, [None] * CLIENTS), weights.num_elements


def cpu_seconds(call: Callable[[], Any]) -> float:
    """Return the CPU time of a call, in seconds."""
    began = time.process_time()
    call()
    return time.process_time() - began


if __name__ == "__main__":
    typer.run(main)
