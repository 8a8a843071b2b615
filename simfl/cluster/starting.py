"""The first start of the actors, and how many of them the memory of GPUs holds."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayError

from simfl.cluster.failures import explain, is_actor_loss
from simfl.cluster.launch import Fleet, Worker
from simfl.cluster.placement import describe_needs
from simfl.cluster.remote_server import NOTICE_S, RemoteServer
from simfl.cluster.setup import EngineSetup
from simfl.cluster.survey import describe_room
from simfl.cluster.wire import Ref
from simfl.cluster.workers import ClientPool
from simfl.engine.recovery import Decision, Loss, decide
from simfl.messages import Chunk
from simfl.sections import ClusterSection

SERVER = "server"

NOTIFY_S = 15.0
"""How long to wait for actors before a message is shown."""


@dataclass(frozen=True)
class Starter:
    """Starts the actors of a run, whose numbers and places the fleet decides on.

    Args:
        setup: what is run.
        server: the server's actor, launched.
        fleet: launches client actors.
        pool: takes them in.
        notify: called with a message if some do not start for long.
    """

    setup: EngineSetup
    server: RemoteServer
    fleet: Fleet
    pool: ClientPool
    notify: Callable[[str], None]

    def start(self, launched: list[Worker]) -> None:
        """Start the server and as many client actors as the cluster, and its GPUs, have room for.

        Args:
            launched: by ``fleet.launch``.

        Raises:
            SimflError: if too few start.
        """
        self._take(launched, server=self.server)
        if self._fit_to_gpus():
            self._take(self.fleet.fill(self.pool.workers))

    def _take(self, workers: list[Worker], *, server: RemoteServer | None = None) -> None:
        """Start actors that have been launched and put them into the pool; some may be late."""
        actors = {worker.label: worker.actor for worker in workers}
        starts: dict[str, Callable[[], Ref]]
        starts = {worker.label: partial(self.pool.start, worker) for worker in workers}
        if server is not None:
            actors[SERVER], starts[SERVER] = server.actor, server.build

        def is_enough(labels: set[str]) -> bool:
            ready = [w for w in (*self.pool.members, *workers) if w.label in labels]
            return (server is None or SERVER in labels) and self.fleet.is_enough(ready)

        late = start_all(
            actors,
            lambda label: starts[label](),
            is_enough=is_enough,
            cluster=self.setup.cluster,
            notify=lambda labels: self._notify_of(labels, workers),
        )
        self.pool.join(workers, late)

    def _notify_of(self, labels: list[str], workers: list[Worker]) -> None:
        groups = sorted({worker.group for worker in workers if worker.label in labels})
        needs = [describe_needs(self.setup.groups[group]) for group in groups]
        what = f"each needs {', or '.join(needs)}; " if needs else ""
        room = describe_room(self.setup.run_name)
        self.notify(f"waiting for {', '.join(labels)} to start; {what}{room}")

    def _fit_to_gpus(self) -> bool:
        """Limit the actors on a GPU to what its memory holds; return whether any group was fitted.

        The only actor of each such group trains a first stack, whose result is not used.
        """
        probes = [worker for worker in self.pool.members if self.fleet.is_fitted(worker.group)]
        for worker in probes:
            start = self.server.first()
            call = worker.actor.probe.remote(self._largest_stack(worker.group), start.broadcast)
            try:
                use = self.server.get(call)
            except RayError as error:
                raise explain(error, doing=f"fitting {worker.label}") from None
            if use is not None:
                self.fleet.limit(worker.group, use.processes_that_fit())
        return bool(probes)

    def _largest_stack(self, group: int) -> Chunk:
        """Return a stack of the group's clients with the most examples."""
        clients: list[int] = np.flatnonzero(self.setup.group_of == group).tolist()
        largest = np.argsort(-self.setup.dataset.num_train_examples(clients), kind="stable")
        stack = tuple(clients[n] for n in largest[: self.setup.groups[group].stack])
        # One step takes the memory of many.
        drawn = (1,) * len(stack) if self.setup.client.work.distribution is not None else ()
        return Chunk(1, 0, stack, len(stack), group, drawn)


def start_all(
    actors: Mapping[str, Any],
    start: Callable[[str], Ref],
    *,
    is_enough: Callable[[set[str]], bool],
    cluster: ClusterSection,
    notify: Callable[[list[str]], None] = lambda _: None,
) -> dict[str, Ref]:
    """Start all actors, and wait until enough of them are ready. Dead ones are started again.

    The others may be late: importing torch alone takes an actor a second, and longer with as many
    actors as cores, while the first could be at work.

    Args:
        actors: by label.
        start: calls ``start`` of the actor with a label.
        is_enough: returns whether a run may begin with the actors of these labels.
        cluster: says how often each may die meanwhile, and how long all of it may take.
        notify: called once, with the labels of those still missing after ``NOTIFY_S``.

    Returns:
        By label, the calls of the actors that are not ready yet.

    Raises:
        SimflError: if one cannot be built, dies too often, or does not answer in time.
    """
    deaths: Counter[str] = Counter()
    began = time.monotonic()
    deadline, is_notified = began + cluster.start_timeout_s, False
    waiting = {start(label): label for label in actors}
    while waiting and not is_enough(actors.keys() - waiting.values()):
        until = deadline if is_notified else min(deadline, began + NOTIFY_S)
        left_s = max(0.0, until - time.monotonic())
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=left_s)
        if not ready and until < deadline:
            is_notified = True
            notify(list(waiting.values()))
            continue
        if not ready:
            raise explain(GetTimeoutError(), doing=f"starting {', '.join(waiting.values())}")
        label = waiting.pop(ready[0])
        death = _death(ready[0])
        if death is None:
            continue
        deaths[label] += 1
        decision = decide(Loss.CLIENT_ACTOR, attempt=deaths[label], max_retries=cluster.max_retries)
        if decision is Decision.ABORT:
            raise explain(death, doing=f"starting {label}")
        _await_process(actors[label], label, deadline)
        waiting[start(label)] = label
    return {label: ref for ref, label in waiting.items()}


def _death(ref: Ref) -> RayError | None:
    """Return the error if an actor has died while it was being started."""
    try:
        ray.get(ref)
    except RayError as error:
        if is_actor_loss(error):
            return error
        raise explain(error, doing="starting the actors") from None
    return None


def _await_process(actor: Any, label: str, deadline: float) -> None:
    """Wait until Ray has replaced a dead process, so that each failed ``start`` is another death.

    Until then all calls fail.
    """
    while True:
        try:
            left_s = max(0.0, deadline - time.monotonic())
            ray.get(actor.process_id.remote(), timeout=left_s)
            return
        except RayError as error:
            if not is_actor_loss(error) or time.monotonic() > deadline:
                raise explain(error, doing=f"starting {label} again") from None
        time.sleep(NOTICE_S)
