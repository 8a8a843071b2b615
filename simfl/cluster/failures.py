"""What Ray's errors mean: a loss that can be recovered, or an error that ends the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ray.exceptions import (
    ActorUnschedulableError,
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RaySystemError,
    RayTaskError,
    WorkerCrashedError,
)

from simfl.engine import is_memory_full
from simfl.engine.events import Cause
from simfl.engine.recovery import Decision, Loss, decide
from simfl.errors import ClusterError, RunError, SimflError, StatesLostError

T = TypeVar("T")

_PROCESS_GONE = (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError)


class UnbuiltActorError(Exception):
    """An actor was called whose process Ray has replaced, and ``start`` has not been called yet.

    It died while it had no work, and Ray replaced it before the driver noticed.
    """


class LostSumError(Exception):
    """A combiner has not received all that it is to add up: it died, or partials were lost."""


_ARGUMENT_LOST = (ObjectLostError, RayActorError, ActorUnschedulableError, LostSumError)


def is_actor_loss(error: RayError) -> bool:
    """Return whether the called process is gone or has been replaced."""
    if isinstance(error, RayTaskError):
        return is_unbuilt(error)
    return isinstance(error, _PROCESS_GONE)


def is_unbuilt(error: RayError) -> bool:
    """Return whether the actor had died before it was called."""
    return isinstance(getattr(error, "cause", None), UnbuiltActorError)


def is_object_loss(error: RayError) -> bool:
    """Return whether an object was lost: the requested one, or an argument of the call."""
    if isinstance(
        error, RayTaskError
    ):  # RayActorError: the actor that should have made the argument has died
        return isinstance(error.cause, _ARGUMENT_LOST)
    return isinstance(error, ObjectLostError)


def explain(error: RayError, *, doing: str) -> SimflError:
    """Translate one of Ray's errors.

    Args:
        error: as Ray raised it.
        doing: what the call was for, such as ``round 3, clients 4, 7 and 9 on client-1``.
    """
    cause = getattr(error, "cause", None)
    if isinstance(cause, RaySystemError):  # an argument of the call could not be unpickled
        cause = cause.client_exc
    if isinstance(error, RayTaskError) and isinstance(cause, SimflError):
        return cause
    if is_object_loss(error):
        return ClusterError(
            f"{doing}: an object was lost with its node; check that the cluster's nodes stay up"
        )
    if isinstance(error, RayTaskError):
        return RunError(f"{doing}: {type(cause).__name__}: {cause}\n{error}")
    if isinstance(error, GetTimeoutError):
        return ClusterError(
            f"{doing}: no answer in time; check that the cluster has free CPUs and GPUs"
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


def repeat(
    call: Callable[[], T], *, doing: str, before_repeat: Callable[[], Any], max_retries: int
) -> T:
    """Call until no object is lost meanwhile.

    Args:
        call: what may be called again.
        doing: what it is for, as in ``explain``.
        before_repeat: called before each further call.
        max_retries: ``cluster.max_retries``.

    Raises:
        StatesLostError: if repeating it does not help.
        SimflError: for any other error of Ray.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            if attempt > 1:
                before_repeat()
            return call()
        except RayError as error:
            if not is_object_loss(error):
                raise explain(error, doing=doing) from None
            decision = decide(Loss.OBJECT, attempt=attempt, max_retries=max_retries)
            if decision is Decision.ROLL_BACK:
                raise StatesLostError(f"{doing}: an object was lost with its node") from None
            if decision is Decision.ABORT:
                raise explain(error, doing=doing) from None


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
