"""Access to a Ray cluster: what is at an address, and whether it accepts this process's token.

Anyone with access can run code on a cluster as the user who started it. Ray gives access to
processes that send its token: https://docs.ray.io/en/latest/ray-security/token-auth.html
Everything is checked before Ray attaches, since Ray itself would try for minutes.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from simfl.cluster.processes import gcs_addresses
from simfl.errors import ClusterError

AUTH_MODE: Final = "RAY_AUTH_MODE"
_TOKEN: Final = "RAY_AUTH_TOKEN"
_PATH: Final = "RAY_AUTH_TOKEN_PATH"

_LISTENER_S: Final = 3.0
_ANSWER_S: Final = 5.0

# Any version of Ray answers this empty request. Only the status matters. The standard gRPC health
# check does not show whether a token is required, since it is answered without one.
_REQUEST: Final = "/ray.rpc.NodeInfoGcsService/CheckAlive"

IS_OPEN: Final = "OK"
"""The status of a cluster that answers."""
ASKS_FOR_TOKEN: Final = "UNAUTHENTICATED"
"""The status of a cluster that requires a token, or another token."""


def refuse_ray_client(address: str) -> None:
    """Raise ClusterError for an address of Ray Client."""
    if address.startswith("ray://"):
        raise ClusterError(
            f"cannot use {address!r}: with Ray Client the driver is outside of the cluster, but a "
            "run needs its driver on one of the nodes; run simfl there with HOST:6379, or submit "
            "it with 'ray job submit'"
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
    """Raise ClusterError unless there is a Ray cluster at an address that this process can use.

    Args:
        address: ``host:port``; ``auto`` and the like are left to Ray.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        listener = host.strip("[]"), int(port)
        socket.create_connection(listener, timeout=_LISTENER_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"nothing answers at cluster.address {address!r} ({error}); "
            "start a cluster there with 'ray start --head', or leave the address out"
        ) from error
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return  # only Ray has the certificates that a connection needs
    answer = ask(address)
    if answer not in (IS_OPEN, ASKS_FOR_TOKEN):
        raise ClusterError(
            f"what listens at cluster.address {address!r} does not answer as a Ray cluster does "
            f"({answer}); give the HOST:PORT that 'ray start --head' printed"
        )
    refuse_open(address, answer)
    if answer == ASKS_FOR_TOKEN and (fault := refusal_fault(address)):
        raise ClusterError(f"the Ray cluster at {address} asks for a token: {fault}")


def refuse_open(address: str, answer: str) -> None:
    """Raise ClusterError for a cluster without a token if this process uses one.

    Such a process can attach, but it rejects its actors' requests, which Ray repeats forever.

    Args:
        address: ``host:port`` of its GCS.
        answer: its status, from ``ask``.
    """
    if answer == IS_OPEN and _uses_token():
        raise ClusterError(
            f"the Ray cluster at {address} asks for no token, but this process uses one, so a run "
            f"could not start; start the cluster with {AUTH_MODE}=token and the same token on all "
            f"of its machines, or, if only you can reach its ports, set {AUTH_MODE}=disabled here, "
            "too (docs/security.md)"
        )


def ask(address: str, *, token: str = "") -> str:
    """Send a cluster a request, and return the name of gRPC's status: ``OK`` if it answered.

    Args:
        address: ``host:port`` of its GCS.
        token: the token to send.
    """
    import grpc  # type: ignore[import-untyped]

    metadata = [("authorization", f"Bearer {token}")] if token else []
    options = [("grpc.enable_http_proxy", 0)]  # as in Ray
    try:
        with grpc.insecure_channel(address, options) as channel:
            channel.unary_unary(_REQUEST)(b"", timeout=_ANSWER_S, metadata=metadata)
    except grpc.RpcError as error:
        return str(error.code().name)
    return IS_OPEN


def mode_warning() -> str | None:
    """Return a warning if the environment switches authentication off."""
    mode = os.environ.get(AUTH_MODE, "token")
    if mode.lower() == "token":
        return None
    return (
        f"{AUTH_MODE} is {mode!r}: anyone who reaches the ports of the Ray cluster can run code as "
        "you; unset it, and Ray asks for a token"
    )


def address_warning(address: str, answer: str) -> str | None:
    """Return a warning if a cluster on the network requires no token.

    Args:
        address: ``host:port`` of its GCS.
        answer: its status, from ``ask``.
    """
    if answer != IS_OPEN or is_loopback(address):
        return None
    return (
        f"the Ray cluster at {address} asks for no token: anyone who reaches it can run code on it "
        f"and read its data; start it with {AUTH_MODE}=token, or make sure that only you can "
        "reach its ports (docs/security.md)"
    )


def is_loopback(address: str) -> bool:
    """Return whether only this machine can reach an address.

    >>> is_loopback("127.0.0.1:6379"), is_loopback("[::1]:6379"), is_loopback("auto")
    (True, True, False)
    """
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def refusal_fault(address: str) -> str | None:
    """Return why a cluster that requires a token would refuse this process, or None."""
    if not _uses_token():
        mode = repr(os.environ[AUTH_MODE]) if AUTH_MODE in os.environ else "not set"
        return f"{AUTH_MODE} is {mode} here; set it to 'token' before Ray is imported"
    if fault := token_fault():
        return fault
    token, place = _read_token()
    if _is_kubernetes() or ask(address, token=token) != ASKS_FOR_TOKEN:
        return None
    return f"it is not the one in {place}; put the cluster's there, or name its file in {_PATH}"


def token_fault() -> str | None:
    """Return why there is no token to send although Ray uses one in this process, or None."""
    token, place = _read_token()
    if token or not _uses_token() or _is_kubernetes():
        return None
    return f"none can be read in {place}; put it there, or name its file in {_PATH}"


def keep_token_private() -> None:
    """Create Ray's token if there is none, and make its file readable by its owner only.

    Ray would make it readable by all users. A token that the user keeps elsewhere is left alone.
    """
    if os.environ.get(_TOKEN) or os.environ.get(_PATH):
        return
    path = _default_path()
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
            with suppress(ImportError, OSError):  # a file system without locks
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
            if not file.read().strip():  # a new file, or one that was not completely written
                file.seek(0)
                file.write(secrets.token_hex(32))
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)


def _read_token() -> tuple[str, str]:
    """Return the token that Ray sends, "" if there is none, and where Ray looks for it.

    A token that is not plain text counts as none, since gRPC aborts a process that sends it.
    """
    token, place = os.environ.get(_TOKEN, "").strip(), _TOKEN
    if not token:
        path = Path(os.environ.get(_PATH) or _default_path())
        place = str(path)
        with suppress(OSError):
            token = path.read_text(errors="replace").strip()
    return (token if token.isascii() and token.isprintable() else ""), place


def _default_path() -> Path:
    return Path.home() / ".ray" / "auth_token"


def _uses_token() -> bool:
    """Return whether Ray uses a token in this process, according to the environment.

    The variable may be unset if the user imported Ray before simfl could set it.
    """
    return os.environ.get(AUTH_MODE, "").lower() == "token"


def _is_kubernetes() -> bool:
    """Return whether Ray sends the token of a Kubernetes account, which it finds by itself."""
    return os.environ.get("RAY_ENABLE_K8S_TOKEN_AUTH", "0").lower() in ("1", "true")
