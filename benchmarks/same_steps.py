"""Check in float64 that simfl and the bare loops take the same steps.

In float32 they diverge soon: each sums in its own order, which rounds differently, and training
amplifies the difference, above all where it flips a ReLU or a pooled maximum. A bare loop drifts as
far from itself if its first weights are perturbed by one rounding. In float64 rounding is too small
to matter: if losses and weights agree to nine digits after tens of rounds, the steps are the same.

    python benchmarks/same_steps.py W4
    python benchmarks/same_steps.py W4 --scale 1 --loops fused          # as large as it is measured
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from bare.loop import Loop
from bare.rounds import LOOPS, make_loop, share_for, train_alone
from recipe import Recipe, make_recipe
from run_simfl import SimflRun
from torch import Tensor
from workloads import WORKLOADS, Workload, find_workload

from simfl.data.dataset import arrays_of
from simfl.scenario import Scenario
from simfl.simulation import Simulation, build

__all__ = ["TOLERANCE", "Apart", "compare_in_double"]

TOLERANCE = 1e-9
"""Relative. Over 40 rounds the differences stay below 1e-12."""


class Apart(NamedTuple):
    """How far a bare loop is from simfl at most."""

    losses: float
    """Relative, of all rounds."""
    weights: float
    """After the last round, relative to the largest of each tensor."""

    @property
    def is_near(self) -> bool:
        """Whether both are within the tolerance."""
        return max(self) <= TOLERANCE


def compare_in_double(
    workload: Workload, loops: Sequence[str], *, rounds: int
) -> tuple[list[float], dict[str, Apart]]:
    """Train with simfl and with bare loops in float64, in this process.

    Returns:
        simfl's losses, and how far each loop is from simfl.

    Raises:
        SystemExit: if the inputs are bytes, of which simfl makes float32.
    """
    if workload.as_bytes:
        raise SystemExit(f"simfl makes float32 of the bytes of {workload.name}; take another")
    recipe = make_recipe(workload, rounds=rounds)
    with _double_by_default():
        first, losses, last = _train_with_simfl(workload, rounds=rounds)
        recipe = replace(recipe, weights=first)
        return losses, {kind: _compare(kind, recipe, losses, last) for kind in loops}


def _train_with_simfl(
    workload: Workload, *, rounds: int
) -> tuple[dict[str, Any], list[float], dict[str, Any]]:
    """Return the first weights, the losses, and the last weights."""
    plain = workload.scenario(rounds=rounds)
    with tempfile.TemporaryDirectory(prefix="simfl-same-") as folder:
        run = SimflRun(plain, Path(folder), backend="inline", build=_build_in_double)
        with closing(run):
            first = run.get_weights()
            losses = [run.run_round().loss for _ in range(rounds)]
            return first, losses, run.get_weights()


def _compare(
    kind: str, recipe: Recipe, losses: Sequence[float], weights: dict[str, np.ndarray[Any, Any]]
) -> Apart:
    shared = share_for(kind, recipe, ranks=1).moved(_widened)
    loop = make_loop(kind, recipe.workload, shared, 0)
    found = [round.loss for round in train_alone(loop, recipe)]
    by_loss = np.abs(np.array(found) / np.array(losses) - 1)
    return Apart(float(by_loss.max()), _weights_apart(loop, weights))


def _weights_apart(loop: Loop, weights: dict[str, np.ndarray[Any, Any]]) -> float:
    return max(
        float(np.abs(slot.view(loop.shared.weights).numpy() - weights[slot.name]).max())
        / float(np.abs(weights[slot.name]).max())
        for slot in loop.slots
    )


def _build_in_double(scenario: Scenario) -> Simulation:
    dataset = scenario.build_dataset()
    (inputs,) = arrays_of(dataset.train.inputs)
    if inputs.dtype == np.float32:  # and not tokens
        inputs = inputs.astype(np.float64)
    return build(scenario, replace(dataset, train=replace(dataset.train, inputs=inputs)))


def _widened(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


@contextmanager
def _double_by_default() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def main(
    workload: Annotated[str, typer.Argument(help=", ".join(WORKLOADS))],
    rounds: Annotated[int, typer.Option(min=1, help="How many.")] = 40,
    loops: Annotated[str | None, typer.Option(help=", ".join(LOOPS))] = None,
    scale: Annotated[float, typer.Option(help="Shrinks every count.")] = 0.2,
) -> None:
    """Compare losses and weights of simfl and bare loops in float64."""
    torch.set_num_threads(1)
    work = find_workload(workload, scale=scale)
    kinds = loops.split(",") if loops is not None else work.loops
    losses, found = compare_in_double(work, kinds, rounds=rounds)
    print(f"{workload} in float64, {rounds} rounds: losses {losses[0]:.6f} to {losses[-1]:.6f}")
    for kind, apart in found.items():
        verdict = "PASS" if apart.is_near else "FAIL"
        away = f"losses away by {apart.losses:.1e} at most, weights by {apart.weights:.1e}"
        print(f"{verdict}: bare {kind:<8} {away}")
    sys.exit(0 if all(apart.is_near for apart in found.values()) else 1)


if __name__ == "__main__":
    typer.run(main)
