"""Actors read weights, sums and states in the object store, and no code can write to it."""

from __future__ import annotations

import pickle
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from ray import cloudpickle

import simfl
from simfl.aggregation import Mean, Median
from simfl.cluster.actor_setup import ActorSetup
from simfl.cluster.client_actor import ClientActor
from simfl.cluster.server_actor import ServerActor
from simfl.cluster.wire import Parcel, address
from simfl.errors import ConfigError
from simfl.messages import Chunk, RoundPlan
from simfl.optimizer import AuxVar, State
from simfl.optimizer.regularizers import FedProx
from simfl.optimizer.scaffold import ScaffoldClient, ScaffoldServer
from simfl.simulation import Simulation, build
from simfl.states import Place, StoredObject
from simfl.vector import Vector, find_vectors

CLIENTS = (0, 1, 2)


@dataclass(frozen=True)
class WickedScaffold(ScaffoldClient):
    """Writes to all that it is handed, whatever the contract says."""

    name: ClassVar[str] = "test-actors-wicked"

    def process_aux_var(self, state: State, aux: AuxVar) -> State:
        new = super().process_aux_var(state, aux)
        for vector in find_vectors([state, aux]):
            for tensor in vector.tensors:
                tensor.fill_(7.0)
        return new


@dataclass(frozen=True)
class WickedScaffoldServer(ScaffoldServer):
    """Likewise, at the server."""

    name: ClassVar[str] = "test-actors-wicked-server"

    def process_aux_var(self, state: State, aux: AuxVar) -> State:
        new = super().process_aux_var(state, aux)
        for vector in find_vectors(aux):
            for tensor in vector.tensors:
                tensor.fill_(7.0)
        return new


def simulation(
    aggregator: str = "mean",
    stack: int = 1,
    module: str = "scaffold-client",
    server_module: str = "scaffold-server",
) -> Simulation:
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
                        "modules": [module, "momentum"],
                    },
                },
                "server": {
                    "optimizer": {"modules": [server_module, "adam"]},
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


def run_round(sim: Simulation, store: Store, *, size: int = 1, num_objects: int = 1) -> None:
    """Run a round in chunks of that size, all messages through the store; twice the first chunk, as
    after a loss, and the last one before the others. Clients have kept a state."""
    server, client = actors(sim)
    plan = RoundPlan(1, CLIENTS)
    broadcast, _ = map(store.pass_on, server.snapshot(1))
    starts = list(range(0, len(CLIENTS), size))
    chunks = [
        Chunk(2, start, CLIENTS[start : start + size], len(CLIENTS))
        for start in (0, 0, *reversed(starts[1:]))
    ]
    everybody = Chunk(1, 0, CLIENTS, len(CLIENTS))
    partial, *objects = client.train_chunk(everybody, broadcast, num_objects)[1:]
    server.end_round(plan, store.pass_on(partial))
    broadcast, _ = map(store.pass_on, server.snapshot(2))
    kept = [StoredObject(store.pass_on(held), 1, 0) for held in objects]
    is_shared = num_objects == 1
    of_client = [Place(kept[0 if is_shared else c], c if is_shared else 0) for c in CLIENTS]
    partials = []
    for chunk in chunks:
        addresses, held = address(of_client[client] for client in chunk.clients)
        ended = client.train_chunk(chunk, broadcast, num_objects, addresses, *held)
        partials.append(store.pass_on(ended[1]))
    for partial in partials[:-1]:
        server.receive(partial)
    server.end_round(RoundPlan(2, CLIENTS), partials[-1])


def shared_bytes(parcel: Parcel) -> int:
    return sum(memory.nbytes for _, shared in parcel.shared for memory in shared)


@pytest.mark.parametrize("num_objects", [1, 3])
@pytest.mark.parametrize("stack", [1, 2])
def test_no_step_of_a_round_writes_to_the_store(stack: int, num_objects: int) -> None:
    """States have an object each, or one for all."""
    store = Store()
    run_round(simulation(stack=stack), store, size=stack, num_objects=num_objects)
    assert store.is_unchanged


WEIGHTS = 4 * (64 * 4 + 4 + 4 * 10 + 10)


def test_weights_sums_states_and_variables_are_read_where_they_lie() -> None:
    server, client = actors(simulation())
    broadcast = server.snapshot(1)[0]
    _, partial, state = client.train_chunk(Chunk(1, 0, (0,), 1), broadcast, 1)
    server.end_round(RoundPlan(1, (0,)), partial)
    following = server.snapshot(2)[0]
    assert shared_bytes(broadcast) == WEIGHTS
    assert shared_bytes(partial) == 2 * WEIGHTS  # the sum of deltas, and SCAFFOLD's
    assert shared_bytes(state) == 2 * WEIGHTS  # c_i and the velocity
    assert shared_bytes(following) == 2 * WEIGHTS  # with SCAFFOLD's c


@pytest.mark.parametrize(
    ("modules", "outcome"),
    [
        ({"server_module": WickedScaffoldServer.name}, nullcontext()),
        # The copies of an actor are read by all of its clients.
        ({"module": WickedScaffold.name}, pytest.raises(ConfigError, match="0 has written")),
    ],
)
def test_modules_that_write_to_what_they_are_handed_write_to_copies(
    monkeypatch: pytest.MonkeyPatch, modules: dict[str, str], outcome: AbstractContextManager[Any]
) -> None:
    """States, auxiliary variables and weights."""
    update = FedProx.update

    def wicked_update(self: Any, gradients: Any, weights: Vector, *rest: Any) -> Any:
        result = update(self, gradients, weights, *rest)
        for tensor in weights.tensors:
            tensor.fill_(7.0)
        return result

    monkeypatch.setattr(FedProx, "update", wicked_update)
    store = Store()
    with outcome:
        run_round(simulation(**modules), store)
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


def test_only_the_class_that_says_so_itself_shares_sums() -> None:
    class Subclass(Mean):
        pass

    assert Mean().accepts_read_only
    assert not Subclass().accepts_read_only
    assert not Median().accepts_read_only
