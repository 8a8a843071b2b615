"""A client actor. It only passes messages to ``ClientHost``, and back."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from threading import Thread
from typing import Any

import ray
import torch

from simfl.client import ClientHost, ClientRecipe
from simfl.cluster.actor_setup import Actor, ActorSetup
from simfl.cluster.diagnostics import log, log_client_errors, log_trained
from simfl.cluster.links import Meeting, attend
from simfl.cluster.wire import (
    Addresses,
    Packed,
    Parcel,
    open_parcel,
    open_states,
    pack_partial,
    pack_states,
)
from simfl.data import FederatedDataset
from simfl.engine import (
    DeviceUse,
    device_for,
    give_back_freed_memory,
    measure_use,
    prepare_device,
)
from simfl.errors import SimflError
from simfl.messages import (
    Broadcast,
    Chunk,
    ChunkReport,
    EvaluationChunk,
)
from simfl.models.model import MetricSums
from simfl.states import (
    KeptState,
    Retained,
)

BEAT_S = 5.0
"""The interval between two heartbeats of a client actor, in seconds."""


class ClientActor(Actor[ClientHost]):
    """A client host, in its own process. ``start`` comes before other calls."""

    def __init__(self, label: str, uses_gpu: bool) -> None:
        super().__init__(label)
        self._uses_gpu = uses_gpu
        self._shares_sums = False
        self._shares_states = False
        self._broadcast: tuple[int, Broadcast] | None = None
        self._beats = False
        self._node = ""

    def start(
        self,
        setup: ActorSetup,
        dataset: FederatedDataset,
        server: Any = None,
        initial: Parcel | None = None,
    ) -> int:
        """Build the host; return the process id.

        Args:
            setup: what it is built from.
            dataset: with the clients' examples.
            server: the server's actor, to which this one sends heartbeats from now on.
            initial: the model's InitialState, whose base is read in place; None: it is built here.
        """
        if server is not None and not self._beats:
            self._beats = True
            Thread(target=_beat, args=(server, self._label), daemon=True).start()
        if ray.is_initialized():
            self._node = ray.get_runtime_context().get_node_id()
        recipe: ClientRecipe = self._open_recipe(setup, initial)
        device = device_for(self._label, uses_gpu=self._uses_gpu)
        prepare_device(device, deterministic=setup.deterministic)
        self._hosted = ClientHost(recipe, dataset, device=device)
        if initial is not None:  # a model of its own may have been built first
            give_back_freed_memory()
        self._shares_sums = recipe.aggregator.accepts_read_only
        self._shares_states = recipe.accepts_read_only
        log.info("started on %s", device)
        return os.getpid()

    def train_chunk(
        self,
        chunk: Chunk,
        broadcast: Parcel,
        num_objects: int = 0,
        addresses: Addresses | None = None,
        *objects: Packed,
    ) -> Any:
        """Train a chunk; return the parts of a ChunkResult, see ``ChunkResult.join``.

        Args:
            chunk: K clients.
            broadcast: what they start from.
            num_objects: into how many objects the new states are put; 0: they are not requested.
            addresses: [K] where each client's state is; None if no client has kept one.
            objects: which hold them.
        """
        known: Sequence[KeptState | None] = [None] * len(chunk.clients)
        if addresses is not None:
            known = open_states(addresses, objects, share=self._shares_states)
        with log_client_errors():
            report, partial, states = self._train(chunk, broadcast, known)
        packed = []
        if num_objects:
            packed = pack_states(states, num_objects=num_objects, share=self._shares_states)
        return (report, partial, *packed)

    def train_series(
        self, meeting: Meeting, chunks: Sequence[Sequence[Chunk]], broadcast: Parcel
    ) -> list[list[ChunkReport]]:
        """Train chunks in each of several rounds; return their reports, by round.

        Args:
            meeting: where the server's actor is, which is sent the partials.
            chunks: by round.
            broadcast: what the first round starts from; that of the others comes from the server.

        Raises:
            LostSumError: if the server leaves.
        """
        reports = []
        with attend(meeting) as link:
            for number, own in enumerate(chunks):
                if number:
                    broadcast = pickle.loads(link.recv_bytes())
                trained = [self._train(c, broadcast, [None] * len(c.clients)) for c in own]
                partials = [partial for _, partial, _ in trained]
                link.send_bytes(pickle.dumps(partials, protocol=5))
                reports.append([report for report, _, _ in trained])
        return reports

    def _train(
        self, chunk: Chunk, broadcast: Parcel, known: Sequence[KeptState | None]
    ) -> tuple[ChunkReport, Parcel, Mapping[int, Retained[KeptState]]]:
        """Train a chunk; return its report, its partial, and what its clients keep."""
        result = self._built.train_chunk(chunk, self._open(broadcast), known)
        log_trained(result.report)
        partial = pack_partial(result.partial, sums=self._shares_sums, aux=self._shares_states)
        return replace(result.report, node=self._node), partial, result.states

    def probe(self, chunk: Chunk, broadcast: Parcel) -> DeviceUse | None:
        """Train a chunk of new clients, only to measure how much of the GPU's memory it uses."""
        # An error is reported when it happens in a round.
        with suppress(SimflError, torch.cuda.OutOfMemoryError):
            self._built.train_chunk(chunk, self._open(broadcast), [None] * len(chunk.clients))
        return measure_use(self._built.device)

    def evaluate_chunk(
        self,
        chunk: EvaluationChunk,
        broadcast: Parcel,
        addresses: Addresses | None = None,
        *objects: Packed,
    ) -> list[MetricSums]:
        """Evaluate the items of a chunk.

        Args:
            chunk: what to evaluate.
            broadcast: the server's weights.
            addresses: where each client's state is; None if no client has kept one, or the
                broadcast weights are evaluated.
            objects: which hold them.
        """
        states: Iterable[KeptState | None] = ()
        if addresses is not None:
            states = open_states(addresses, objects, share=self._shares_states).open_each()
        with log_client_errors():
            return self._built.evaluate_chunk(chunk, self._open(broadcast), states)

    def _open(self, parcel: Parcel) -> Broadcast:
        if self._broadcast is None or self._broadcast[0] != parcel.label:
            self._broadcast = parcel.label, open_parcel(parcel)
        return self._broadcast[1]


def _beat(server: Any, label: str) -> None:
    """Send heartbeats from a separate thread, which also runs while the process is busy.

    A second concurrency group would work as well, but with one, Ray no longer runs calls in the
    main thread, where allocating large tensors is cheaper.
    """
    while True:
        with suppress(Exception):  # a dead server is restarted, or the run is over
            server.beat.remote(label)
        time.sleep(BEAT_S)
