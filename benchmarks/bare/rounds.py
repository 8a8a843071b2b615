"""Rounds of a bare loop: in this process alone, or in several that take turns with others."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from recipe import ClientRound, Recipe, read_recipe
from torch import Tensor
from turns import RoundTime, Turns
from workloads import Workload

from bare.graphed import Graphed
from bare.loop import Loop
from bare.one_by_one import Fused, Plain, Tuned
from bare.shared import Shared, share
from bare.stacked import Batched, Vmap

__all__ = ["LOOPS", "make_loop", "share_for", "train_alone", "train_in_turns"]

LOOPS: dict[str, type[Loop]] = {
    "plain": Plain,
    "fused": Fused,
    "tuned": Tuned,
    "graphed": Graphed,
    "vmap": Vmap,
    "batched": Batched,
}
"""By name."""


def make_loop(kind: str, workload: Workload, shared: Shared, rank: int) -> Loop:
    """Make a rank's loop.

    Raises:
        SystemExit: if there is none of that name, or it does not know the workload.
    """
    return _loop_class(kind)(workload, shared, rank)


def share_for(kind: str, recipe: Recipe, *, ranks: int) -> Shared:
    """Make what the processes of a loop share, laid out as that loop wants it.

    Raises:
        SystemExit: if there is none of that name.
    """
    return share(recipe, ranks=ranks, channels_last=_loop_class(kind).channels_last)


def _loop_class(kind: str) -> type[Loop]:
    if kind not in LOOPS:
        raise SystemExit(f"there is no loop {kind!r}; choose from {', '.join(LOOPS)}")
    return LOOPS[kind]


def train_alone(
    loop: Loop, recipe: Recipe, *, synchronize: Callable[[], None] = lambda: None
) -> Iterator[RoundTime]:
    """Train the rounds of a recipe one by one in this process.

    Args:
        loop: of the only rank.
        recipe: what is trained.
        synchronize: waits until the device has done all it was given.
    """
    for clients in recipe.rounds():
        prepared = loop.prepare(clients)
        synchronize()
        began = time.perf_counter()
        loop.run(clients, prepared)
        loop.fold(ranks=1)
        synchronize()
        yield RoundTime(time.perf_counter() - began, loop.shared.mean_loss())


@dataclass(frozen=True)
class Team:
    """What the processes of a bare loop need of each other."""

    kind: str
    recipe: Path
    shared: Shared
    barrier: Any
    ranks: int

    def loop(self, rank: int) -> Loop:
        """Make a rank's loop."""
        torch.set_num_threads(1)
        return make_loop(self.kind, read_recipe(self.recipe).workload, self.shared, rank)

    def run_round(self, loop: Loop, cohort: list[ClientRound]) -> float:
        """Train a rank's share of the cohort, and return the seconds until all have."""
        clients = cohort[loop.rank :: self.ranks]
        prepared = loop.prepare(clients)
        self.barrier.wait()
        began = time.perf_counter()
        loop.run(clients, prepared)
        self.barrier.wait()
        loop.fold(ranks=self.ranks)
        self.barrier.wait()
        return time.perf_counter() - began


def train_in_turns(kind: str, recipe_file: Path, *, ranks: int) -> None:
    """Be a contestant: rank 0, with the other ranks in processes of their own."""
    torch.set_num_threads(1)
    context = multiprocessing.get_context("spawn")
    recipe = read_recipe(recipe_file)
    shared = share_for(kind, recipe, ranks=ranks).moved(Tensor.share_memory_)
    team = Team(kind, recipe_file, shared, context.Barrier(ranks), ranks)
    with ExitStack() as stack:
        pipes = [_start_rank(context, team, rank, stack) for rank in range(1, ranks)]
        loop = team.loop(0)
        turns = Turns()
        for cohort in recipe.rounds():
            if not turns.wait():
                break
            for pipe in pipes:
                pipe.send(True)
            seconds = team.run_round(loop, cohort)
            turns.add(seconds, shared.mean_loss())


def _start_rank(context: Any, team: Team, rank: int, stack: ExitStack) -> Connection:
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(team, rank, theirs), daemon=True)
    process.start()
    stack.callback(process.join)
    stack.callback(ours.send, False)
    return ours


def _serve(team: Team, rank: int, pipe: Connection) -> None:
    loop = team.loop(rank)
    for cohort in read_recipe(team.recipe).rounds():
        if not pipe.recv():
            return
        team.run_round(loop, cohort)
    pipe.recv()
