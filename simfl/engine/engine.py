"""Engine: the protocol that the round loop uses; and the checkpoints that every engine writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

from simfl.checkpoint import Checkpoint, Found, prune, write_checkpoint
from simfl.messages import (
    Broadcast,
    ChunkTrace,
    Contribution,
    EvaluationChunk,
    RoundPlan,
    RoundReport,
    RoundTrace,
    SaveOrder,
    Snapshot,
)
from simfl.models.model import MetricSums
from simfl.states import ServerState, ShardInfo, open_storage
from simfl.vector import Vector

Handle: TypeAlias = Any
"""Stands for a Snapshot, wherever it is stored; only the engine that returned it can use it."""


@dataclass(frozen=True)
class Cohort:
    """A cohort that has been trained, before anything is made of what it has sent."""

    plan: RoundPlan
    handle: Handle
    """What it has started from."""
    chunks: tuple[ChunkTrace, ...]
    """By cohort position."""
    train_s: float
    """Wall time."""
    results: Any
    """What only the engine reads: the partials and the clients' new states."""


class Trained(NamedTuple):
    """A round that has been trained."""

    report: RoundReport
    """Its numbers, the same on every engine."""
    trace: RoundTrace
    """Which actor trained which clients, and how long it took."""
    handle: Handle
    """What the next round starts from; None if that has begun already."""


class Engine(Protocol):
    """Trains cohorts and evaluates weights; every engine gives the same bits."""

    @property
    def num_actors(self) -> int:
        """The number of actors that train clients."""

    @property
    def dashboard(self) -> str | None:
        """The address of the engine's dashboard; None without one."""

    def open(self) -> None:
        """Start what trains, which comes before all other calls.

        The engine has the examples by then, so that the caller can free its own before.

        Raises:
            ClusterError: if actors do not start.
        """

    def start(self) -> Handle:
        """Return what the first round starts from."""

    def put(self, snapshot: Snapshot) -> Handle:
        """Return a handle of a snapshot that is not the engine's own, for any round."""

    def train(self, plan: RoundPlan, handle: Handle) -> Cohort:
        """Train a cohort, whose sums are formed meanwhile; ``end_round`` or ``add_up`` follows.

        Raises:
            RunError: if a client fails, or the cluster does.
            StatesLostError: if only a checkpoint can recover what was lost.
        """

    def end_round(self, cohort: Cohort) -> Trained:
        """Take the server's step, and store the clients' new states.

        Raises:
            RunError: if the step fails, or the cluster does.
            StatesLostError: as ``train``.
        """

    @property
    def series_length(self) -> int:
        """How many rounds it may be worth to ask for at once."""

    def run(
        self, plans: Sequence[RoundPlan], handle: Handle, *, following: Sequence[RoundPlan] = ()
    ) -> list[Trained]:
        """Run rounds one after another: at least the first, or all of them.

        Args:
            plans: of the rounds.
            handle: what the first one starts from.
            following: of rounds that will be run next, if these are known and nothing comes in
                between. They may begin at once.

        Returns:
            The rounds that were run. Only the last one has a handle.

        Raises:
            RunError: if a client or the server's step fails, or the cluster does.
            StatesLostError: as ``train``.
        """

    def add_up(self, cohort: Cohort) -> Contribution | None:
        """Return what the cohort has sent, instead of a step, and store the clients' new states.

        Returns:
            The sum over the cohort; None without clients, or if all have drawn no work.

        Raises:
            RunError: if every client was dropped, or the cluster fails.
            StatesLostError: as ``train``.
        """

    def evaluate(self, chunk: EvaluationChunk, handle: Handle) -> list[MetricSums]:
        """Evaluate the weights of a handle; one entry per number in the chunk, in order."""

    def get_weights(self, handle: Handle) -> Vector:
        """Return all weights of a handle."""

    def save(self, order: SaveOrder, handle: Handle) -> None:
        """Write a checkpoint of the handle and all clients' states; may return before it has."""

    def flush(self) -> None:
        """Wait until all that ``save`` has begun to write is on disk.

        Raises:
            CheckpointError: if it cannot be written.
            StatesLostError: if states were lost with a node before they were.
        """

    def restore(self, found: Found) -> Handle:
        """Go back to a checkpoint, or to the start where ``found`` has none."""

    def peak_memory(self) -> dict[str, int | None]:
        """Return the peak resident memory in bytes of ``driver``, ``server`` and ``client``.

        For ``client``, the largest of all client actors; None where it is unknown or where there is
        no such process.
        """

    def write_profiles(self, folder: Path) -> None:
        """Write the profiles of the engine's other processes, if they were profiled."""

    def describe(self) -> str:
        """Return where clients are trained, in a few words."""

    def close(self) -> None:
        """Release what the engine holds; may be called twice."""


def commit_checkpoint(
    location: str,
    order: SaveOrder,
    snapshot: Snapshot,
    *,
    files: dict[int, str],
    shards: Sequence[ShardInfo],
) -> None:
    """Write a checkpoint whose shards have been written, and delete what is no longer needed.

    Args:
        location: of the storage.
        order: what else to write.
        snapshot: what the next round starts from.
        files: client id -> its shard.
        shards: all that ``files`` names, and any others to be kept.
    """
    storage = open_storage(location)
    checkpoint = Checkpoint(
        round=order.round,
        scenario_hash=order.scenario_hash,
        weights=snapshot.broadcast.weights,
        optimizer=snapshot.state.optimizer,
        algorithm=snapshot.state.algorithm,
        aggregator=snapshot.state.aggregator,
        states=files,
        positions=order.positions,
        sampler=order.sampler,
    )
    write_checkpoint(storage, checkpoint, shards=shards)
    prune(storage, keep=order.keep, in_use={shard.name for shard in shards})


def snapshot_of(checkpoint: Checkpoint) -> Snapshot:
    """Return the snapshot that restores a server, which makes the rest of the broadcast itself."""
    broadcast = Broadcast(checkpoint.round + 1, checkpoint.weights, {})
    state = ServerState(checkpoint.optimizer, checkpoint.algorithm, checkpoint.aggregator)
    return Snapshot(broadcast, state)
