"""Actors read weights and sums in the object store; nobody's code can write to it."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from ray import cloudpickle

import simfl
from simfl.aggregation import Mean, Median
from simfl.cluster.actors import ActorSetup, ClientActor, ServerActor
from simfl.cluster.wire import Parcel
from simfl.messages import Chunk, RoundPlan
from simfl.optimizer.regularizers import FedProx
from simfl.optimizer.scaffold import ScaffoldClient
from simfl.simulation import Simulation, build
from simfl.vector import Vector

CLIENTS = (0, 1, 2)


def simulation(aggregator: str = "mean", stack: int = 1) -> Simulation:
    return build(
        simfl.load_scenario(
            {
                "rounds": 1,
                "data": {"source": "digits", "partition": {"kind": "iid", "clients": 3}},
                "model": {"kind": "mlp", "hidden": [4], "dropout": 0.5},
                "client": {
                    "batch_size": 100,
                    "stack": stack,
                    "optimizer": {
                        "lrate": 0.1,
                        "w_decay": 0.01,
                        "regularizers": ["fedprox"],
                        "modules": ["scaffold-client", "momentum"],
                    },
                },
                "server": {
                    "optimizer": {"modules": ["scaffold-server", "adam"]},
                    "aggregator": aggregator,
                },
            }
        )
    )


class Store:
    """Stands for Ray's: what is put into it comes out on memory that is read-only."""

    def __init__(self) -> None:
        self._memory: list[tuple[bytes, bytearray]] = []

    def pass_on(self, value: Any) -> Any:
        buffers: list[pickle.PickleBuffer] = []
        body = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        stored = [bytes(buffer.raw()) for buffer in buffers]
        self._memory += [(raw, bytearray(raw)) for raw in stored]
        return pickle.loads(body, buffers=stored)

    @property
    def is_unchanged(self) -> bool:
        return bool(self._memory) and all(raw == before for raw, before in self._memory)


def actors(sim: Simulation) -> tuple[ServerActor, ClientActor]:
    def setup(recipe: object) -> ActorSetup:
        return ActorSetup((), (), cloudpickle.dumps(recipe), threads=1)

    server = ServerActor("server")
    client = ClientActor("client-0", uses_gpu=False)
    server.start(setup(sim.server))
    client.start(setup(sim.client), sim.dataset)
    return server, client


def run_round(sim: Simulation, store: Store, *, size: int = 1) -> None:
    """Run a round in chunks of that size, all messages through the store; twice the first chunk, as
    after a loss, and the last one before the others."""
    server, client = actors(sim)
    plan = RoundPlan(1, CLIENTS)
    broadcast, _ = map(store.pass_on, server.snapshot(1))
    starts = list(range(0, len(CLIENTS), size))
    chunks = [
        Chunk(1, start, CLIENTS[start : start + size], len(CLIENTS))
        for start in (0, 0, *reversed(starts[1:]))
    ]
    partials = [
        store.pass_on(client.train_chunk(chunk, broadcast, *[None] * len(chunk.clients))[1])
        for chunk in chunks
    ]
    for partial in partials[:-1]:
        server.receive(partial)
    server.end_round(plan, partials[-1])


@pytest.mark.parametrize("stack", [1, 2])
def test_no_step_of_a_round_writes_to_the_store(stack: int) -> None:
    store = Store()
    run_round(simulation(stack=stack), store, size=stack)
    assert store.is_unchanged


def test_weights_and_sums_are_read_where_they_lie() -> None:
    server, client = actors(simulation())
    broadcast = server.snapshot(1)[0]
    partial: Parcel = client.train_chunk(Chunk(1, 0, (0,), 1), broadcast, None)[1]
    weights = sum(memory.nbytes for _, lent in broadcast.lent for memory in lent)
    sums = sum(memory.nbytes for _, lent in partial.lent for memory in lent)
    assert weights == sums == 4 * (64 * 4 + 4 + 4 * 10 + 10)


def test_modules_that_write_to_what_they_are_handed_write_to_copies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Auxiliary variables and weights, whatever their contract says."""
    process, update = ScaffoldClient.process_aux_var, FedProx.update

    def wicked_process(self: Any, state: Any, aux: Any) -> Any:
        for value in aux.values():
            for tensor in value.tensors if isinstance(value, Vector) else ():
                tensor.fill_(7.0)
        return process(self, state, aux)

    def wicked_update(self: Any, gradients: Any, weights: Vector, *rest: Any) -> Any:
        result = update(self, gradients, weights, *rest)
        for tensor in weights.tensors:
            tensor.fill_(7.0)
        return result

    monkeypatch.setattr(ScaffoldClient, "process_aux_var", wicked_process)
    monkeypatch.setattr(FedProx, "update", wicked_update)
    store = Store()
    run_round(simulation(), store)
    assert store.is_unchanged


def test_an_aggregator_that_writes_to_what_it_merges_writes_to_copies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    merge = Median.merge

    def wicked_merge(self: Any, left: Any, right: Any) -> Any:
        merged = merge(self, left, right)
        for delta, _ in merged:
            delta.mul_(-1.0)
        return merged

    monkeypatch.setattr(Median, "merge", wicked_merge)
    store = Store()
    run_round(simulation("median"), store)
    assert store.is_unchanged


def test_only_the_class_that_says_so_itself_is_lent_sums() -> None:
    class Subclass(Mean):
        pass

    assert Mean().may_borrow
    assert not Subclass().may_borrow
    assert not Median().may_borrow
