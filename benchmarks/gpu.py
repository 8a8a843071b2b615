"""The CIFAR-10 benchmark of pfl-research on one GPU: 1,500 rounds of W1, on data of that shape.

simfl, a bare loop with fused updates, and one with stacks of clients train the same clients in
turns, in one process and on one device; losses are checked.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --rounds 2 --turns 1 --scale 0.1      # tries it out
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Annotated

import torch
import typer
from bare.rounds import LOOPS, train_alone
from bare.shared import share
from bare.stacked import Vmap
from recipe import Recipe, make_recipe
from run_simfl import SimflRun
from turns import RoundTime
from workloads import find_workload

_WARM_UP = 2
_TOLERANCE = 1e-2
"""Relative. A GPU's convolutions add up in orders of their own, and training makes more of it."""


def main(
    device: Annotated[str, typer.Option(help="cuda, or cpu to try it out.")] = "cuda",
    rounds: Annotated[int, typer.Option(min=1, help="In all, of each contestant.")] = 1500,
    turns: Annotated[int, typer.Option(min=1, help="In which they are run.")] = 5,
    stack: Annotated[int, typer.Option(min=1, help="Clients in a stack of the bare loop.")] = 50,
    set: Annotated[list[str] | None, typer.Option(help="KEY=VALUE of simfl's scenario.")] = None,
    scale: Annotated[float, typer.Option(help="Shrinks every count.")] = 1.0,
) -> None:
    """Compare simfl with bare loops on one device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU; --device cpu --rounds 2 --scale 0.1 tries it out")
    work = find_workload("W1", scale=scale)
    plain = work.scenario(rounds=_WARM_UP + rounds)
    plain["cluster"] = {"actors": 1, "num_gpus": 1.0 if device == "cuda" else 0.0}
    recipe = make_recipe(work, rounds=_WARM_UP + rounds)
    with tempfile.TemporaryDirectory(prefix="simfl-gpu-") as folder:
        run = SimflRun(plain, Path(folder), backend="inline", overrides=tuple(set or ()))
        with closing(run):
            contestants = {
                "simfl": iter(run.run_round, None),
                "bare fused": _bare("fused", recipe, device),
                f"bare stacked {stack}": _bare("stacked", recipe, device, most=stack),
            }
            done = take_turns(contestants, rounds=rounds, turns=turns)
    sys.exit(_tell(done))


def take_turns(
    contestants: dict[str, Iterator[RoundTime]], *, rounds: int, turns: int
) -> dict[str, list[list[RoundTime]]]:
    """Return what the rounds of each turn took, the warm-up first."""
    sizes = [_WARM_UP] + [len(range(turn, rounds, turns)) for turn in range(turns)]
    done: dict[str, list[list[RoundTime]]] = {name: [] for name in contestants}
    for size in sizes:
        for name, contestant in contestants.items():
            done[name].append(list(islice(contestant, size)))
    return done


def _bare(kind: str, recipe: Recipe, device: str, *, most: int = 1) -> Iterator[RoundTime]:
    shared = share(recipe, ranks=1).moved(lambda tensor: tensor.to(device))
    work = recipe.workload
    loop = LOOPS[kind](work, shared, 0) if kind in LOOPS else Vmap(work, shared, 0, most=most)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    return train_alone(loop, recipe, synchronize=wait)


def _tell(done: dict[str, list[list[RoundTime]]]) -> int:
    """Print a line for each contestant; return the exit code, 1 if losses are apart."""
    first = next(iter(done.values()))
    code = 0
    print(f"{'':<20}{'s in all':>10}{'ms a round':>12}{'simfl is':>26}{'last loss':>12}")
    for name, turns in done.items():
        total = sum(round.seconds for turn in turns[1:] for round in turn)
        ratios = [a / b for a, b in zip(_medians(first), _medians(turns), strict=True)]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) x"
        shown = "" if turns is first else ratio
        ms = 1000 * statistics.median(_medians(turns))
        loss = turns[-1][-1].loss
        print(f"{name:<20}{total:>10.2f}{ms:>12.2f}{shown:>26}{loss:>12.6f}")
        if abs(turns[0][0].loss / first[0][0].loss - 1) > _TOLERANCE:
            print(f"FAIL: {name} does not begin with simfl's loss")
            code = 1
    return code


def _medians(turns: list[list[RoundTime]]) -> list[float]:
    """Return each turn's seconds a round, without the warm-up."""
    return [statistics.median(round.seconds for round in turn) for turn in turns[1:]]


if __name__ == "__main__":
    typer.run(main)
