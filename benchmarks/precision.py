"""What ``client.precision: bf16`` gains by model and batch size: one step's time, on one thread.

The two take turns; the smallest time of each is shown. On a CPU it is CPU time, as other work on
the machine does not count in it, on a GPU wall time.

    python benchmarks/precision.py
    python benchmarks/precision.py --device cuda --batch-sizes 10,32,128
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer

from simfl.models import CNN32, MLP, Batch, CrossEntropy, ModelSpec, ResNet, TorchModel, data_shape
from simfl.models.model import Precision

STEPS = 5
MODELS: dict[str, tuple[ModelSpec, tuple[int, ...]]] = {
    "mlp 1024-4096-10": (MLP(hidden=(4096,)), (1024,)),
    "cnn-32": (CNN32(), (3, 32, 32)),
    "resnet": (ResNet(), (3, 32, 32)),
}
PRECISIONS: tuple[Precision, ...] = ("float32", "bf16")


def main(
    batch_sizes: Annotated[str, typer.Option(help="Examples a step, with commas.")] = "10,32,128",
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    turns: Annotated[int, typer.Option(min=1, help="Of each.")] = 3,
) -> None:
    """Print a row for each model and batch size."""
    torch.set_num_threads(1)
    print(f"{'model':>18} {'batch':>6} {'float32':>10} {'bf16':>10} {'gain':>6}")
    for name, (spec, shape) in MODELS.items():
        for size in map(int, batch_sizes.split(",")):
            best = _measure(spec, shape, size, device=device, turns=turns)
            exact, rounded = (best[precision] for precision in PRECISIONS)
            times = f"{exact * 1e3:>7.2f} ms {rounded * 1e3:>7.2f} ms"
            print(f"{name:>18} {size:>6} {times} {exact / rounded:>5.2f}x")


def _measure(
    spec: ModelSpec, shape: tuple[int, ...], size: int, *, device: str, turns: int
) -> dict[Precision, float]:
    inputs, targets = torch.randn(size, *shape), torch.randint(10, (size,))
    targets[0] = 9
    module = spec.build(data_shape(inputs.numpy(), targets.numpy()))
    models = {p: TorchModel(module, CrossEntropy(), precision=p).to(device) for p in PRECISIONS}
    batch = Batch(inputs.to(device), targets.to(device))
    best = dict.fromkeys(PRECISIONS, float("inf"))
    for _ in range(turns):
        for precision, model in models.items():
            best[precision] = min(best[precision], _seconds(model, batch))
    return best


def _seconds(model: TorchModel, batch: Batch) -> float:
    """Return what a step takes, after one that does not count."""
    clock = time.process_time if batch.targets.device.type == "cpu" else time.perf_counter
    model.compute_loss_and_gradients(batch)
    began = _now(clock, batch)
    for _ in range(STEPS):
        model.compute_loss_and_gradients(batch)
    return (_now(clock, batch) - began) / STEPS


def _now(clock: Callable[[], float], batch: Batch) -> float:
    if batch.targets.device.type == "cuda":
        torch.cuda.synchronize()
    return clock()


if __name__ == "__main__":
    typer.run(main)
