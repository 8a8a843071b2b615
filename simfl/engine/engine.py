"""Engine: where a round's work is done. The round loop knows nothing else of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

from simfl.checkpoint import Found
from simfl.messages import EvaluationChunk, RoundPlan, RoundReport, RoundTrace, SaveOrder
from simfl.models.model import MetricSums
from simfl.vector import Vector

Handle: TypeAlias = Any
"""Stands for a Snapshot, wherever it is; only the engine that gave it can use it."""


class Trained(NamedTuple):
    """A round that has been trained."""

    report: RoundReport
    """Its numbers, which are the same on every engine."""
    trace: RoundTrace
    """Who trained whom, and how long it took."""
    handle: Handle
    """What the next round starts from."""


class Engine(Protocol):
    """Trains cohorts and evaluates weights; every engine gives the same bits."""

    @property
    def num_actors(self) -> int:
        """How many train clients at once."""

    @property
    def dashboard(self) -> str | None:
        """The address of a dashboard that shows what the engine does, where there is one."""

    def start(self) -> Handle:
        """Return what the first round starts from."""

    def train(self, plan: RoundPlan, handle: Handle) -> Trained:
        """Train the cohort, and take the server's step.

        Raises:
            RunError: if a client fails, or the cluster does.
            StatesLostError: if it takes a checkpoint to go on.
        """

    def evaluate(self, chunk: EvaluationChunk, handle: Handle) -> list[MetricSums]:
        """Evaluate the weights of a handle; one entry per number in the chunk, in order."""

    def get_weights(self, handle: Handle) -> Vector:
        """Return all weights of a handle."""

    def save(self, order: SaveOrder, handle: Handle) -> None:
        """Write a checkpoint of the handle and of all clients' states; may go on meanwhile."""

    def flush(self) -> None:
        """Wait until what ``save`` has begun is on disk.

        Raises:
            CheckpointError: if it cannot be written.
            StatesLostError: if states were lost with a node before they were.
        """

    def restore(self, found: Found) -> Handle:
        """Go back to a checkpoint, or to the start where ``found`` has none."""

    def peak_memory(self) -> dict[str, int | None]:
        """Return the peak resident memory in bytes of ``driver``, ``server`` and ``client``.

        Of the client actors, that of the largest; None where it is not known, or where there is
        no such process.
        """

    def write_profiles(self, folder: Path) -> None:
        """Write what other processes than this one have done with their time, if they noted it."""

    def describe(self) -> str:
        """Say in a few words where clients are trained."""

    def close(self) -> None:
        """Give back what the engine holds; may be called twice."""
