"""The pool of client actors, with calls of Ray replaced."""

from __future__ import annotations

from types import SimpleNamespace

from ray.exceptions import ActorDiedError

from simfl.cluster import workers
from simfl.cluster.workers import ClientPool
from simfl.sections import ClusterSection


def test_an_actor_that_dies_while_it_is_restarted_is_restarted_again(monkeypatch):
    """Its second start fails, its third succeeds: only then may a round begin."""
    calls = iter(["second", "third"])
    starts = []

    def start(*arguments):
        starts.append(next(calls))
        return starts[-1]

    def get(ref):
        if ref == "second":
            raise ActorDiedError

    monkeypatch.setattr(workers, "NOTICE_S", 0.0)
    monkeypatch.setattr(workers.ray, "wait", lambda refs, **_: (refs[:1], refs[1:]))
    monkeypatch.setattr(workers.ray, "get", get)
    actor = SimpleNamespace(start=SimpleNamespace(remote=start))
    worker = SimpleNamespace(label="client-0", group=0, actor=actor, setup=None)
    pool = ClientPool(
        (),
        cluster=ClusterSection(),
        workload=lambda chunk: (1.0,),
        server=SimpleNamespace(look=lambda: None),
        notify=lambda message: None,
    )
    pool.join([worker], {"client-0": pool.start(worker)})
    pool.await_members(lambda group: 1)
    assert starts == ["second", "third"]
