"""Ray's errors are translated: none reaches a user untranslated."""

from __future__ import annotations

import pytest
from ray import exceptions as of_ray

from simfl.cluster.failures import (
    UnbuiltActorError,
    explain,
    is_actor_loss,
    is_object_loss,
    is_unbuilt,
)
from simfl.errors import ClusterError, DataError, RunError, SimflError


def raised_by_a_task(cause: Exception) -> of_ray.RayTaskError:
    return of_ray.RayTaskError("train_chunk", "the traceback", cause)


LOST = of_ray.ObjectLostError("0" * 56, None, "")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (of_ray.RayActorError(), "its process died .*--backend inline"),
        (of_ray.ActorUnavailableError("gone", None), "its process died .*--backend inline"),
        (of_ray.WorkerCrashedError(), "its process died .*--backend inline"),
        (of_ray.NodeDiedError("gone"), "its process died .*--backend inline"),
        (of_ray.OutOfMemoryError("oom"), "node was out of memory; lower cluster.actors"),
        (of_ray.GetTimeoutError(), "no answer in time; check that the cluster has free CPUs"),
        (LOST, "an object was lost with its node; check that"),
        (raised_by_a_task(LOST), "an object was lost with its node; check that"),
        (raised_by_a_task(of_ray.RayActorError()), "an object was lost with its node; check that"),
        (of_ray.ObjectStoreFullError("the store is full.\nmore"), "ObjectStoreFullError: the st"),
        (of_ray.RuntimeEnvSetupError("no disk"), "RuntimeEnvSetupError: Failed to set up"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_kind_is_one_of_ours_with_the_place(error: of_ray.RayError, words: str) -> None:
    ours = explain(error, doing="round 3, clients 4, 7 on client-1")
    assert type(ours) is ClusterError
    assert str(ours).startswith("round 3, clients 4, 7 on client-1: ")
    with pytest.raises(ClusterError, match=words):
        raise ours
    assert len(str(ours).splitlines()) == 1


def test_our_own_exceptions_arrive_as_they_were_raised() -> None:
    cause = ClusterError("client-3: cluster.num_gpus asks for a GPU")
    assert explain(raised_by_a_task(cause), doing="starting") is cause


def test_so_does_one_that_unpickling_an_argument_raised() -> None:
    cause = DataError("arrays/inputs.npy is not there on node2")
    error = raised_by_a_task(of_ray.RaySystemError(cause, "the traceback"))  # type: ignore[no-untyped-call]
    assert explain(error, doing="starting") is cause


def test_any_other_exception_arrives_with_its_traceback() -> None:
    ours = explain(raised_by_a_task(KeyError("w")), doing="ending round 3")
    assert type(ours) is RunError
    assert "ending round 3: KeyError: 'w'" in str(ours)


@pytest.mark.parametrize(
    "error",
    [
        of_ray.RayActorError(),
        of_ray.ActorUnavailableError("gone", None),
        of_ray.WorkerCrashedError(),
    ],
)
def test_a_process_that_is_gone_is_a_loss(error: of_ray.RayError) -> None:
    assert is_actor_loss(error)
    assert not is_object_loss(error)


def test_an_actor_that_was_restarted_and_not_built_is_a_loss_that_no_chunk_has_caused() -> None:
    error = raised_by_a_task(UnbuiltActorError("client-1 was started again"))
    assert is_actor_loss(error)
    assert is_unbuilt(error)


def test_an_exception_of_the_clients_code_is_no_loss() -> None:
    error = raised_by_a_task(ValueError("bad"))
    assert not is_actor_loss(error)
    assert not is_object_loss(error)
    assert isinstance(explain(error, doing="x"), SimflError)
