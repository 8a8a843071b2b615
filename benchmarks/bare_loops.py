"""Bare loops: federated averaging in plain PyTorch, with no framework around it.

Two processes with one thread each train half of the cohort each, on one resident model; deltas are
added up in shared memory. Cohorts and batches are those of a recipe, and are laid out before the
clock starts; reading examples, training and adding up are what is timed.

    plain     one client after the other, as a person would write it: backward(), torch.optim.SGD
    fused     one after the other; updates and deltas by torch._foreach, in place
    tuned     fused, with convolutions channels last, ReLU in place and after pooling, and a first
              step that reads the shared weights and writes the client's in one pass
    graphed   fused, with each step recorded as a CUDA graph; on a CPU, fused
    vmap      all clients of a process in one computation: torch.func.vmap over grad
    batched   the same with hand-written layers: a multi-layer perceptron by baddbmm, SGD alone

    python benchmarks/bare_loops.py fused W2 --rounds 5

Their code is in ``bare/``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from bare.rounds import LOOPS, make_loop, share_for, train_alone, train_in_turns
from recipe import make_recipe
from workloads import find_workload


def main(
    kind: Annotated[str, typer.Argument(help=", ".join(LOOPS))],
    workload: Annotated[str, typer.Argument(help="Its name, or the file of a recipe.")],
    rounds: Annotated[int, typer.Option(help="How many, if no recipe says so.")] = 3,
    scale: Annotated[float, typer.Option(help="Shrinks every count.")] = 1.0,
    ranks: Annotated[int, typer.Option(help="Processes.")] = 2,
) -> None:
    """Train in turns if a recipe is given, in this process alone otherwise."""
    if workload.endswith(".npz"):
        train_in_turns(kind, Path(workload), ranks=ranks)
        return
    torch.set_num_threads(1)
    recipe = make_recipe(find_workload(workload, scale=scale), rounds=rounds)
    loop = make_loop(kind, recipe.workload, share_for(kind, recipe, ranks=1), 0)
    for number, (seconds, loss) in enumerate(train_alone(loop, recipe), start=1):
        print(f"round {number}: {seconds:.4f} s, loss {loss:.6f}")


if __name__ == "__main__":
    typer.run(main)
