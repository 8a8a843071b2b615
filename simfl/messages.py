"""Every value that crosses an actor boundary. Frozen, and the same on every backend.

Shapes: N clients of a cohort, K clients of a chunk.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import numpy as np

from simfl.states import (
    Dropped,
    Kept,
    Nothing,
    Place,
    Retained,
    ServerState,
    State,
    StoredObject,
    in_equal_parts,
)
from simfl.vector import Vector

__all__ = [
    "NOT_FINITE",
    "NO_REPORTS",
    "STRAGGLER",
    "Broadcast",
    "Chunk",
    "ChunkReport",
    "ChunkResult",
    "ChunkTrace",
    "ClientReports",
    "CohortPart",
    "Contribution",
    "EvaluationChunk",
    "FloatColumn",
    "IntColumn",
    "Node",
    "Partial",
    "RoundPlan",
    "RoundReport",
    "RoundTrace",
    "SaveOrder",
    "Snapshot",
]

IntColumn: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.int64]]"
FloatColumn: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.float64]]"

H = TypeVar("H")
"""What holds a client's state: the value, or a reference to it."""

P = TypeVar("P")
"""What holds a partial: the value, or a reference to it."""

NOT_FINITE = "not finite"
"""The reason for dropping an update with NaN or infinite values."""

STRAGGLER = "straggler"
"""The reason for dropping a client that has drawn no work for the round."""

Node: TypeAlias = tuple[int, int]
"""A node (level, index) of the reduction tree; its first cohort position is index * 2**level."""


@dataclass(frozen=True)
class CohortPart:
    """The contiguous clients of a cohort that one group of actors trains."""

    group: int
    begin: int
    """The index of its first client in the cohort."""
    end: int
    """The index after its last client."""
    start: int
    """The cohort position of its first client: ``begin`` plus the positions that the stacks
    before it leave empty."""
    stack: int
    """The number of clients trained in one computation, from ``start`` on; a power of two. Chunks
    begin and end where stacks do."""


@dataclass(frozen=True)
class RoundPlan:
    """The clients that take part in a round, in the order of the reduction."""

    round: int
    """Counts from 1."""
    clients: tuple[int, ...]
    """[N] ids: those of a group together, longest local work first."""
    num_steps: tuple[int, ...] = ()
    """[N] the number of steps of each; empty: all have the same number."""
    parts: tuple[CohortPart, ...] = ()
    """Which group trains which clients, in order; empty: one group trains all, one client at a
    time."""
    draws_steps: bool = False
    """Whether ``num_steps`` was drawn for this round, so that it is sent with the clients."""
    num_asked: int = 0
    """How many other clients have evaluated the weights, so that the sampler could choose."""

    def split(self) -> tuple[CohortPart, ...]:
        """Return the parts of the cohort."""
        return self.parts or (CohortPart(0, 0, len(self.clients), 0, 1),)

    @property
    def is_idle(self) -> bool:
        """Whether no client trains: there is none, or all have drawn no work."""
        return not self.clients or (self.draws_steps and not any(self.num_steps))

    @property
    def num_positions(self) -> int:
        """The width of the reduction tree: N plus the positions that stacks leave empty."""
        last = self.split()[-1]
        return last.start + last.end - last.begin


@dataclass(frozen=True)
class Chunk:
    """A contiguous slice of the cohort, trained by an actor in one call."""

    round: int
    start: int
    """The cohort position of its first client."""
    clients: tuple[int, ...]
    """[K] ids."""
    cohort_size: int
    """The number of positions in the whole cohort: the width of the reduction tree."""
    group: int = 0
    """The group whose actors train it."""
    num_steps: tuple[int, ...] = ()
    """[K] the number of steps of each, if it was drawn for this round; empty: it follows from the
    scenario and the client's examples."""


@dataclass(frozen=True)
class Broadcast:
    """What every client of a round starts from."""

    round: int
    weights: Vector
    """All weights and buffers but those that are personal or never change."""
    aux: dict[str, dict[str, Any]]
    """The auxiliary variables of the server's modules, by aux name."""
    algorithm: State = field(default_factory=dict)
    """What the server's half of the algorithm sends."""
    aggregator: State = field(default_factory=dict)
    """What the aggregator announces."""
    separate: bool = False
    """Whether the clients' deltas are returned one by one, and not aggregated."""


@dataclass(frozen=True)
class Snapshot:
    """What a round starts from: all that a server needs to be restored."""

    broadcast: Broadcast
    state: ServerState


@dataclass(frozen=True)
class Contribution:
    """What one client, or a subtree of the cohort, adds to the round."""

    total: Any
    """In the aggregator's own form: a weighted sum of deltas, or all of them. None: no client
    sends weights."""
    weight: float
    """The sum of the deltas' weights."""
    aux: dict[str, dict[str, Any]]
    """Auxiliary variables by aux name, merged."""
    sums: dict[str, float]
    """Counts and metric sums, added up."""
    update_sums: dict[str, Any] = field(default_factory=dict)
    """The sums of the algorithm's updates (``Update.sums``): Vectors, tensors and numbers."""


@dataclass(frozen=True)
class Partial:
    """The part of the reduction that one chunk completes."""

    start: int
    """The chunk's first cohort position, by which the server recognizes a second copy."""
    cohort_size: int
    """The number of positions in the whole cohort: the width of the reduction tree."""
    nodes: dict[Node, Contribution | None]
    """The roots of the chunk's subtrees. None: no client below has contributed."""


@dataclass(frozen=True)
class ClientReports:
    """Numbers of K clients' rounds, as columns: cheap for thousands of clients.

    All but ``seconds`` are the same bits on every backend.
    """

    client: IntColumn
    """[K] ids, in the order of the cohort."""
    num_examples: IntColumn
    """[K] the number of examples each trains on."""
    num_steps: IntColumn
    """[K] the number of steps each took."""
    train_loss: FloatColumn
    """[K] the mean over its steps of the loss before the step, by examples; 0 without any."""
    first_loss: FloatColumn
    """[K] the loss of the first step's batch, before that step; NaN without any."""
    last_loss: FloatColumn
    """[K] the loss of the last step's batch, before that step; NaN without any."""
    delta_norm: FloatColumn
    """[K] the L2 norm of the whole delta, as it is sent; NaN where the client itself has failed."""
    seconds: FloatColumn
    """[K] wall time; clients that are trained together share it by their steps."""
    dropped: dict[int, str]
    """Client id -> why its update was dropped; only those clients."""

    def __len__(self) -> int:
        return len(self.client)


_NO_COUNTS: IntColumn = np.zeros(0, np.int64)
_NO_NUMBERS: FloatColumn = np.zeros(0, np.float64)

NO_REPORTS = ClientReports(
    client=_NO_COUNTS,
    num_examples=_NO_COUNTS,
    num_steps=_NO_COUNTS,
    train_loss=_NO_NUMBERS,
    first_loss=_NO_NUMBERS,
    last_loss=_NO_NUMBERS,
    delta_norm=_NO_NUMBERS,
    seconds=_NO_NUMBERS,
    dropped={},
)
"""Of a round without clients."""


@dataclass(frozen=True)
class ChunkReport:
    """Numbers of one chunk: small, and read by the driver."""

    round: int
    start: int
    clients: ClientReports
    """Of its K clients, in the chunk's order."""
    seconds: float
    """Wall time on the actor."""
    state_bytes: int = 0
    """The total size of its clients' new states."""
    keeping: tuple[int, ...] = ()
    """The ids of the clients that keep a state."""
    partial_bytes: int = 0
    """The size of its partial."""
    node: str = ""
    """The cluster's node on which it was trained; empty: the driver's process."""


@dataclass(frozen=True)
class ChunkTrace:
    """A chunk's report, and how the chunk was trained."""

    report: ChunkReport
    actor: str
    """The actor that trained it: ``client-3``; in one process ``inline``, or ``inline-1`` where it
    has several threads."""
    retries: int = 0
    """How often it was lost with an actor before."""


@dataclass(frozen=True)
class RoundTrace:
    """How a round was trained. Unlike its numbers, it differs from run to run."""

    chunks: tuple[ChunkTrace, ...]
    """By cohort position."""
    train_s: float
    """Wall time until the last chunk ended."""
    aggregate_s: float
    """Wall time of the server's step after that."""
    num_actors: int = 1
    """The number of actors that train clients."""


@dataclass(frozen=True)
class RoundReport:
    """Numbers of a whole round, counted by the server."""

    round: int
    num_clients: int
    """Those that contributed."""
    num_dropped: int
    num_examples: int
    """The examples these clients hold."""
    num_seen: int
    """The examples in all their batches; one counts as often as it was trained on."""
    num_steps: int
    train_loss: float
    """The mean over all steps, by examples; NaN in a round without clients."""
    delta_norm: float
    """The L2 norm of the aggregated delta, trainable weights only."""
    sent_bytes: int
    """Sent by the server to the cohort's clients, and to others that the sampler has asked: weights
    and auxiliary variables."""
    received_bytes: int
    """Sent by the clients that contributed: deltas, as they are encoded, and auxiliary
    variables."""
    received_dense_bytes: int
    """The same, had the deltas been sent as they are."""
    aux_bytes: int
    """The part of both that is auxiliary variables."""


@dataclass(frozen=True)
class EvaluationChunk:
    """What an actor evaluates in one call."""

    split: Literal["test", "clients", "training"]
    """The central test split, or the clients' own examples: those that they are evaluated on, or
    those that they train on."""
    items: tuple[tuple[int, ...], ...]
    """Of the test split: numbers of batches. Of clients: ids. An item is never cut."""
    group: int = 0
    """The group whose actors evaluate it."""
    own: tuple[str, ...] = ()
    """Which models are made for each client, of GLOBAL, PERSONAL and TUNED of ``simfl.record``;
    empty: all are evaluated with the broadcast one."""
    needs_states: bool = False
    """Whether what clients keep is needed to make them."""

    @property
    def clients(self) -> list[int]:
        """The ids of the clients, in order."""
        return list(itertools.chain.from_iterable(self.items))


@dataclass(frozen=True)
class SaveOrder:
    """What to write in a checkpoint besides the server's snapshot and the clients' states."""

    round: int
    """The last round in the checkpoint."""
    scenario_hash: str
    positions: dict[str, Any]
    """What identifies the run and its files on resume; JSON values by name."""
    keep: int
    """The number of checkpoints to keep."""
    sampler: State = field(default_factory=dict)
    """What the sampler knows of the rounds so far, if it looks back."""


@dataclass(frozen=True)
class ChunkResult(Generic[P, H]):
    """What training a chunk gives: values on the actor, references to them at the driver.

    Between the two it is split, since its parts have different readers: the driver reads the
    report, the server the partial, and whichever actor trains a client next that client's state.
    States that are small share an object; then those of some clients follow one another in it.
    """

    report: ChunkReport
    partial: P
    states: Mapping[int, Retained[H]]
    """By client id, in the chunk's order; empty if the states were not requested."""

    @staticmethod
    def num_parts(num_objects: int) -> int:
        """Return the number of parts of a result whose states are in so many objects."""
        return 2 + num_objects

    @staticmethod
    def join(report: ChunkReport, others: Sequence[P]) -> ChunkResult[P, Place]:
        """Return the result of which an actor has returned the parts.

        Args:
            report: the first part.
            others: the other parts, in order: the partial, and the objects with the states of the
                clients that keep one, in equal parts. Objects that are not needed hold nothing.
        """
        partial, *objects = others
        places: dict[int, Place] = {}
        for held, clients in zip(
            objects, in_equal_parts(report.keeping, len(objects)), strict=False
        ):
            num_bytes = report.state_bytes * len(clients) // len(report.keeping)
            stored = StoredObject(held, len(clients), num_bytes)
            places |= {client: Place(stored, row) for row, client in enumerate(clients)}
        dropped = report.clients.dropped

        def retained(client: int) -> Retained[Place]:
            if client in places:
                return Kept(places[client])
            return Dropped(dropped[client]) if client in dropped else Nothing()

        ids: list[int] = report.clients.client.tolist() if objects else []
        return ChunkResult(report, partial, {client: retained(client) for client in ids})
