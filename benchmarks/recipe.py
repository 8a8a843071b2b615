"""A recipe: first weights, cohorts and batches of a workload, as simfl draws them.

A framework that follows it takes the same steps on the same examples as simfl, so that losses can
be compared number by number. It is a file that other frameworks' environments read with only numpy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from workloads import Workload

__all__ = ["ClientRound", "Recipe", "make_recipe", "read_recipe"]

# R rounds, N clients of a cohort, B examples of a batch

_WEIGHTS = "weights."


class ClientRound(NamedTuple):
    """What one client does in a round."""

    client: int
    num_examples: int
    """It holds, by which its delta is weighted."""
    batches: list[np.ndarray[Any, Any]]
    """[steps] of [B] rows of the data."""


@dataclass(frozen=True)
class Recipe:
    """What is to be trained, round by round."""

    workload: Workload
    weights: dict[str, np.ndarray[Any, Any]]
    """The first round's, by name."""
    clients: np.ndarray[Any, Any]
    """[R, N] cohorts, longest local work first."""
    batch_sizes: list[list[list[int]]]
    """[R][N][steps]"""
    rows: np.ndarray[Any, Any]
    """Of all batches, one after the other."""

    @property
    def num_rounds(self) -> int:
        """How many rounds it has."""
        return len(self.clients)

    def rounds(self) -> Iterator[list[ClientRound]]:
        """Iterate over the rounds: what each client of the cohort does, [N]."""
        held = self.workload.num_examples()
        start = 0
        for clients_N, sizes_N in zip(self.clients.tolist(), self.batch_sizes, strict=True):
            cohort = []
            for client, sizes in zip(clients_N, sizes_N, strict=True):
                ends = start + np.cumsum(sizes)
                batches = np.split(self.rows[start : ends[-1]], ends[:-1] - start)
                cohort.append(ClientRound(client, int(held[client]), batches))
                start = int(ends[-1])
            yield cohort

    def write(self, path: Path) -> None:
        """Write it to a .npz file."""
        np.savez(
            path,
            workload=json.dumps(asdict(self.workload)),
            clients=self.clients,
            batch_sizes=json.dumps(self.batch_sizes),
            rows=self.rows,
            **{_WEIGHTS + name: array for name, array in self.weights.items()},
        )


def read_recipe(path: Path) -> Recipe:
    """Read what ``Recipe.write`` wrote."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    fields = json.loads(str(arrays["workload"]))
    workload = Workload(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
    return Recipe(
        workload=workload,
        weights={
            name.removeprefix(_WEIGHTS): array
            for name, array in arrays.items()
            if name.startswith(_WEIGHTS)
        },
        clients=arrays["clients"],
        batch_sizes=json.loads(str(arrays["batch_sizes"])),
        rows=arrays["rows"],
    )


def make_recipe(workload: Workload, *, rounds: int) -> Recipe:
    """Draw what simfl would draw in these rounds."""
    # Imported here: other frameworks' environments, which read recipes, have no simfl.
    import simfl
    from simfl.simulation import build

    simulation = build(simfl.load_scenario(workload.scenario(rounds=rounds)))
    cohorts, sizes, rows = [], [], []
    for round in range(1, rounds + 1):
        plan = simulation.plan_round(round)
        cohorts.append(plan.clients)
        steps = simulation.client.work.plan_steps(
            [simulation.dataset.train_rows(client) for client in plan.clients],
            seed=simulation.scenario.seed,
            round=round,
            clients=plan.clients,
        )
        of_each = [column[column > 0].tolist() for column in steps.sizes.T]
        sizes.append(of_each)
        rows += [
            steps.rows[step, position, :size]
            for position, batches in enumerate(of_each)
            for step, size in enumerate(batches)
        ]
    return Recipe(
        workload=workload,
        weights=simulation.server.build_model().get_weights().to_numpy(),
        clients=np.array(cohorts),
        batch_sizes=sizes,
        rows=np.concatenate(rows),
    )
