"""What is at an address: seen before Ray is asked to attach, which would wait for minutes."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

from simfl.cluster.authentication import (
    ASKS_FOR_TOKEN,
    AUTH_MODE,
    IS_OPEN,
    ask,
    refusal_fault,
    sends_token,
)
from simfl.cluster.processes import gcs_addresses
from simfl.errors import ClusterError

_LISTENER_S = 3.0


def refuse_ray_client(address: str) -> None:
    """Raise ClusterError for an address of Ray Client."""
    if address.startswith("ray://"):
        raise ClusterError(
            f"cannot use {address!r}: with Ray Client the driver is outside of the cluster, and a "
            "run's is on one of its nodes; give HOST:6379 there, or send it there with "
            "'ray job submit'"
        )


def find_cluster() -> str | None:
    """Return the address that Ray uses for ``auto``: the cluster of a raylet on this machine.

    If there are several, it is the last one started by ``ray start``. None: leave it to Ray.
    """
    if address := os.environ.get("RAY_ADDRESS"):
        return None if address == "auto" else address
    running = gcs_addresses()
    if len(running) == 1:
        return running.pop()
    temporary = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    with suppress(OSError):
        return Path(temporary, "ray", "ray_current_cluster").read_text(encoding="ascii").strip()
    return None


def require_cluster(address: str) -> None:
    """Raise ClusterError unless a Ray cluster is at an address that this process can work with.

    Args:
        address: ``host:port``; ``auto`` and the like are left to Ray.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    _require_listener(address, host.strip("[]"), int(port))
    # What speaks TLS answers nobody else, and Ray has certificates for it.
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return
    answer = ask(address)
    if answer not in (IS_OPEN, ASKS_FOR_TOKEN):
        raise ClusterError(
            f"what listens at cluster.address {address!r} does not answer as a Ray cluster does "
            f"({answer}); give the HOST:PORT that 'ray start --head' has printed"
        )
    refuse_open(address, answer)
    if answer == ASKS_FOR_TOKEN and (fault := refusal_fault(address)):
        raise ClusterError(f"the Ray cluster at {address} asks for a token: {fault}")


def refuse_open(address: str, answer: str) -> None:
    """Raise ClusterError for a cluster without a token, where this process uses one.

    Such a process can attach; but it refuses what actors ask it, and Ray asks again without end.

    Args:
        address: ``host:port`` of its GCS.
        answer: what ``ask`` has returned for it.
    """
    if answer == IS_OPEN and sends_token():
        raise ClusterError(
            f"the Ray cluster at {address} asks for no token, and this process does, so that no "
            f"run could begin; start it with {AUTH_MODE}=token, and the same token, on each of its "
            f"machines, or, if only you can reach its ports, set {AUTH_MODE}=disabled here, too "
            "(docs/security.md)"
        )


def _require_listener(address: str, host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=_LISTENER_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"nothing answers at cluster.address {address!r} ({error}); "
            "start a cluster there with 'ray start --head', or leave the address out"
        ) from error
