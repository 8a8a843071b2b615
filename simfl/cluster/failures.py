"""What Ray's errors mean, in our words."""

from __future__ import annotations

from ray.exceptions import (
    GetTimeoutError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)

from simfl.errors import ClusterError, RunError, SimflError

__all__ = ["explain"]


def explain(error: RayError, *, doing: str) -> SimflError:
    """Return our exception for one of Ray's.

    Args:
        error: as Ray raised it.
        doing: what was under way, such as ``round 3, clients 4, 7 and 9 on client-1``.
    """
    cause = getattr(error, "cause", None)
    if isinstance(error, RayTaskError) and isinstance(cause, SimflError):
        return cause
    if isinstance(error, RayTaskError):
        return RunError(f"{doing}: {type(cause).__name__}: {cause}\n{error}")
    if isinstance(error, GetTimeoutError):
        return ClusterError(f"no answer in time: {doing}")
    if isinstance(error, OutOfMemoryError):
        return ClusterError(
            f"out of memory: {doing}; lower cluster.actors, client.batch_size or the model's size"
        )
    if isinstance(error, RayActorError):
        return ClusterError(f"an actor died: {doing}; {_first_line(error)}")
    return ClusterError(f"{type(error).__name__}: {doing}; {_first_line(error)}")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else "Ray gave no reason"
