"""What Ray's errors mean: a loss that can be made good, or the end of the run in our words."""

from __future__ import annotations

from ray.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from simfl.engine import is_memory_full
from simfl.engine.events import Cause
from simfl.errors import ClusterError, RunError, SimflError

_PROCESS_GONE = (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError)


class UnbuiltActorError(Exception):
    """An actor was called that Ray has started again, and that ``start`` has not built yet.

    It died while it had nothing to do, and was back before anyone noticed.
    """


def is_actor_loss(error: RayError) -> bool:
    """Say whether the process that was to answer has gone, or another has taken its place."""
    if isinstance(error, RayTaskError):
        return is_unbuilt(error)
    return isinstance(error, _PROCESS_GONE)


def is_unbuilt(error: RayError) -> bool:
    """Say whether the actor had died before it was called."""
    return isinstance(getattr(error, "cause", None), UnbuiltActorError)


def is_object_loss(error: RayError) -> bool:
    """Say whether an object was lost: the one asked for, or an argument of the call."""
    if isinstance(error, RayTaskError):  # the second: who was to make the argument has died
        return isinstance(error.cause, (ObjectLostError, RayActorError))
    return isinstance(error, ObjectLostError)


def explain(error: RayError, *, doing: str) -> SimflError:
    """Return our exception for one of Ray's.

    Args:
        error: as Ray raised it.
        doing: what was under way, such as ``round 3, clients 4, 7 and 9 on client-1``.
    """
    cause = getattr(error, "cause", None)
    if isinstance(error, RayTaskError) and isinstance(cause, SimflError):
        return cause
    if is_object_loss(error):
        return ClusterError(
            f"{doing}: an object was lost with its node; see that the cluster's nodes stay up"
        )
    if isinstance(error, RayTaskError):
        return RunError(f"{doing}: {type(cause).__name__}: {cause}\n{error}")
    if isinstance(error, GetTimeoutError):
        return ClusterError(
            f"{doing}: no answer in time; see that the cluster has free CPUs and GPUs"
        )
    if isinstance(error, OutOfMemoryError):
        return ClusterError(
            f"{doing}: killed by Ray, since the node was out of memory; "
            "lower cluster.actors, client.batch_size or the size of the model"
        )
    if is_actor_loss(error):
        return ClusterError(
            f"{doing}: its process died (killed, crashed, or out of memory); "
            "see the node's log, or run it with --backend inline"
        )
    return ClusterError(f"{doing}: {type(error).__name__}: {_first_line(error)}")


def cause_of(error: RayError) -> Cause:
    """Return why a call has failed."""
    if is_memory_full(getattr(error, "cause", None) or error):
        return Cause.DEVICE_FULL
    if is_unbuilt(error):
        return Cause.UNBUILT
    return Cause.DIED if is_actor_loss(error) else Cause.OTHER


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else "Ray gives no reason"
