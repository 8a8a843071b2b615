"""Ray's calls in this process, so that the test decides what is lost, and when.

A call runs at once; its results are references, which the test may turn into lost objects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import ObjectLostError, RayTaskError

import simfl.cluster.client_actor
import simfl.cluster.engine
from simfl.cluster.actor_setup import ActorSetup
from simfl.cluster.client_actor import ClientActor
from simfl.cluster.engine import RayEngine
from simfl.cluster.launch import Worker
from simfl.cluster.pool import ActorGroup
from simfl.cluster.server_actor import ServerActor
from simfl.cluster.session import Connection
from simfl.cluster.setup import EngineSetup
from simfl.sections import ClusterSection
from simfl.simulation.building import Simulation

LOST = ObjectLostError("0" * 56, None, "")


@dataclass(eq=False)
class FakeRef:
    """A result, or the error that it would have raised."""

    value: Any = None
    error: Exception | None = None

    def get(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


@dataclass
class FakeActor:
    """An actor whose calls run at once; ``spoil`` may turn what they return into lost objects."""

    target: Any
    label: str
    spoil: Callable[[str, str, list[FakeRef]], None]
    calls: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        def options(num_returns: int) -> Any:
            return SimpleNamespace(
                remote=lambda *arguments: self._call(name, arguments, num_returns)
            )

        method = options(1)
        method.options = options
        return method

    def _call(self, name: str, arguments: Sequence[Any], num_returns: int) -> Any:
        self.calls.append(name)
        try:
            known = [a.get() if isinstance(a, FakeRef) else a for a in arguments]
            result = getattr(self.target, name)(*known)
            refs = [FakeRef(v) for v in result] if num_returns > 1 else [FakeRef(result)]
        except Exception as error:
            failed = RayTaskError(name, str(error), error)
            refs = [FakeRef(error=failed) for _ in range(num_returns)]
        self.spoil(self.label, name, refs)
        return refs if num_returns > 1 else refs[0]


class FakeFleet:
    """Two client actors."""

    def __init__(self, setup: EngineSetup, actors: Sequence[FakeActor]) -> None:
        recipe = simfl.cluster.engine.put_setup(setup, setup.client)
        self._workers = [Worker(actor, actor.label, 0, recipe) for actor in actors]

    def launch(self) -> list[Worker]:
        return self._workers

    def grow(self, workers: Sequence[Worker]) -> list[Worker]:
        return []

    def is_fitted(self, group: int) -> bool:
        return False

    def is_enough(self, started: Sequence[Worker]) -> bool:
        return True

    def least(self, group: int) -> int:
        return 1

    def close(self) -> None:
        pass


def fake_engine(
    simulation: Simulation,
    monkeypatch: pytest.MonkeyPatch,
    *,
    location: str,
    spoil: Callable[[str, str, list[FakeRef]], None],
) -> RayEngine:
    """Return a Ray engine whose actors are in this process.

    Args:
        simulation: what it runs.
        monkeypatch: replaces Ray's functions.
        location: of checkpoints.
        spoil: called with the actor's label, the method and the references that it returns.
    """

    def get(refs: Any, timeout: float | None = None) -> Any:
        return [ref.get() for ref in refs] if isinstance(refs, list) else refs.get()

    def wait(refs: list[FakeRef], num_returns: int = 1, **_: Any) -> Any:
        return refs[:num_returns], refs[num_returns:]

    stand_ins = {"get": get, "wait": wait, "put": FakeRef, "kill": lambda actor: None}
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(ray, name, stand_in)
    # A thread would send heartbeats.
    monkeypatch.setattr(simfl.cluster.client_actor, "_beat", lambda server, label: None)
    server = FakeActor(ServerActor("server"), "server", spoil)
    clients = [FakeActor(ClientActor(f"client-{n}", False), f"client-{n}", spoil) for n in (0, 1)]

    def put_setup(setup: EngineSetup, recipe: object) -> FakeRef:
        return FakeRef(ActorSetup((), (), ray.cloudpickle.dumps(recipe), threads=1))

    module = simfl.cluster.engine
    monkeypatch.setattr(module, "put_setup", put_setup)
    monkeypatch.setattr(module, "launch_server", lambda setup: server)
    monkeypatch.setattr(module, "Fleet", lambda setup: FakeFleet(setup, clients))
    setup = EngineSetup(
        cluster=ClusterSection(chunk_size=2),
        groups=(ActorGroup(),),
        location=location,
        server=simulation.server,
        client=simulation.client,
        dataset=simulation.dataset,
        cohort_size=simulation.cohort_size,
        group_of=simulation.group_of,
        bounds=(),
        run_name="fake",
    )
    engine = RayEngine(Connection(ray, is_owned=False, is_local=True), setup)
    engine.open()
    return engine


def lose(refs: list[FakeRef], name: str) -> None:
    """Make a call fail because one of its arguments is lost."""
    for ref in refs:
        ref.error = RayTaskError(name, "lost", LOST)
