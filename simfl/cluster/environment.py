"""The environment variables that Ray reads: when it is imported, and when its processes start."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from simfl.cluster import ahead, forking, standing
from simfl.cluster.access import AUTH_MODE, is_loopback

# Ray reads these when it is imported.
_ENVIRONMENT = {
    AUTH_MODE: "token",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Frequent enough for short runs. A gauge is dropped after two intervals, and Ray reports a
    # node's usage every 5 s: with less than 2.5 s these gauges would come and go.
    "RAY_metrics_report_interval_ms": "5000",
}

# Ray records the last 100,000 calls, 3 kB each, for its dashboard and timeline.
NO_EVENTS = {"RAY_task_events_report_interval_ms": "0"}

# Ray collects objects without references, and frees them once a second. In rounds of less, those
# of several rounds of a large model would be held, each in fresh memory.
FREE_AT_ONCE = {"RAY_free_objects_period_milliseconds": "0"}

# Ray's processes connect to sockets of others, which may be a moment late, and try again after a
# second, ten times.
CONNECT_SOON = {
    "RAY_raylet_client_connect_timeout_milliseconds": "20",
    "RAY_raylet_client_num_connect_attempts": "500",
}

# The node's address becomes 127.0.0.1, so that all of Ray's processes listen there only. This is
# Ray's default on Windows and macOS, and works on Linux, too. `_node_ip_address` does not: Ray
# replaces 127.0.0.1 by the machine's address, also in the address of a cluster to attach to.
# https://docs.ray.io/en/latest/ray-core/starting-ray.html
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def resolve_address(address: str | None) -> str:
    """Return the address of the cluster to use; ``local`` stands for a new one."""
    return address or os.environ.get("RAY_ADDRESS") or "local"


def import_ray(address: str | None, *, keeps_events: bool = False) -> Any:
    """Import Ray with the settings that it reads from the environment at import, and return it.

    Args:
        address: the cluster that will be connected to, as for ``connect``.
        keeps_events: as for ``connect``.
    """
    if "ray" not in sys.modules:
        _set_environment()
    where = resolve_address(address)
    if "ray" not in sys.modules:
        ahead.has_imported_ray = where == "local"
    with started_with(settings_for(where, keeps_events=keeps_events)):
        import ray
    return ray


@contextmanager
def started_with(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for processes started in this context; variables set by the user are kept."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def settings_for(where: str, *, keeps_events: bool) -> Mapping[str, str]:
    """Return the variables for Ray's processes, of a cluster at this resolved address."""
    if where == "local":
        own = LOOPBACK | forking.HUGE_PAGES | FREE_AT_ONCE | CONNECT_SOON
        return own if keeps_events else own | NO_EVENTS
    # A process that imported Ray with LOOPBACK can still attach to clusters on the network.
    return LOOPBACK if where == "auto" or is_loopback(where) else {}


def settings_of_own() -> AbstractContextManager[None]:
    """Set the variables with which Ray is imported, and started on this machine."""
    _set_environment()
    return started_with(settings_for("local", keeps_events=False))


def _set_environment() -> None:
    os.environ.update({key: os.environ.get(key, value) for key, value in _ENVIRONMENT.items()})


def own_environment() -> dict[str, str]:
    """Return the digests of this process's variables, which are the same once Ray is imported."""
    return standing.digests_of(_ENVIRONMENT | os.environ)
