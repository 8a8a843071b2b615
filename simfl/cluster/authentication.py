"""Who may use a Ray cluster: whoever may runs code on it, as the user who has started it.

Ray lets in those who send its token. https://docs.ray.io/en/latest/ray-security/token-auth.html
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

AUTH_MODE: Final = "RAY_AUTH_MODE"
_TOKEN: Final = "RAY_AUTH_TOKEN"
_PATH: Final = "RAY_AUTH_TOKEN_PATH"
_ANSWER_S: Final = 5.0

# A question that any version of Ray answers, with nothing in it; what counts is whether it is
# refused. The standard health check is answered without a token, and so says nothing.
_QUESTION: Final = "/ray.rpc.NodeInfoGcsService/CheckAlive"

IS_OPEN: Final = "OK"
"""What ``ask`` returns for a cluster that answers."""
ASKS_FOR_TOKEN: Final = "UNAUTHENTICATED"
"""What it returns for one that refuses the token, or to do without."""


def mode_warning() -> str | None:
    """Say that the environment switches authentication off, where it does."""
    mode = os.environ.get(AUTH_MODE, "token")
    if mode.lower() == "token":
        return None
    return (
        f"{AUTH_MODE} is {mode!r}: whoever reaches the ports of the Ray cluster can run code as "
        f"you; unset it, and Ray asks for a token"
    )


def address_warning(address: str, answer: str) -> str | None:
    """Say that a cluster on the network lets anybody in, where it does.

    Args:
        address: ``host:port`` of its GCS.
        answer: what ``ask`` has returned for it.
    """
    if answer != IS_OPEN or is_loopback(address):
        return None
    return (
        f"the Ray cluster at {address} asks for no token: whoever reaches it can run code on it "
        f"and read what it holds; start it with {AUTH_MODE}=token, or see that only you can "
        "reach its ports (docs/security.md)"
    )


def is_loopback(address: str) -> bool:
    """Say whether only this machine can reach an address.

    >>> is_loopback("127.0.0.1:6379"), is_loopback("[::1]:6379"), is_loopback("auto")
    (True, True, False)
    """
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def sends_token() -> bool:
    """Say whether Ray uses a token in this process, as far as its environment tells.

    Where the user has imported Ray before simfl could set the variable, it may not be set.
    """
    return os.environ.get(AUTH_MODE, "").lower() == "token"


def refusal_fault(address: str) -> str | None:
    """Say why a cluster that asks for a token would refuse this process's, where it would."""
    if not sends_token():
        mode = repr(os.environ[AUTH_MODE]) if AUTH_MODE in os.environ else "not set"
        return f"{AUTH_MODE} is {mode} here; set it to 'token' before Ray is imported"
    if fault := token_fault():
        return fault
    token, where = _read_token()
    if _is_kubernetes() or ask(address, token=token) != ASKS_FOR_TOKEN:
        return None
    return f"it is not the one in {where}; put the cluster's there, or name its file in {_PATH}"


def token_fault() -> str | None:
    """Say where there is no token to send, though Ray uses one in this process."""
    token, where = _read_token()
    if token or not sends_token() or _is_kubernetes():
        return None
    return f"none can be read in {where}; put it there, or name its file in {_PATH}"


def ask(address: str, *, token: str = "") -> str:
    """Ask a cluster something, and return the name of gRPC's status: ``OK`` if it has answered.

    Args:
        address: ``host:port`` of its GCS.
        token: what to show for it.
    """
    import grpc  # type: ignore[import-untyped]

    metadata = [("authorization", f"Bearer {token}")] if token else []
    options = [("grpc.enable_http_proxy", 0)]  # as in Ray
    try:
        with grpc.insecure_channel(address, options) as channel:
            channel.unary_unary(_QUESTION)(b"", timeout=_ANSWER_S, metadata=metadata)
    except grpc.RpcError as error:
        return str(error.code().name)
    return IS_OPEN


def keep_token_private() -> None:
    """Make Ray's token, if there is none yet, and see that only its owner can read it.

    Ray would make it for all to read. One that the user keeps elsewhere is left alone.
    """
    if os.environ.get(_TOKEN) or os.environ.get(_PATH):
        return
    path = _default_path()
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
            _lock(file)
            if not file.read().strip():  # a new file, or one that was not completely written
                file.seek(0)
                file.write(secrets.token_hex(32))
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)


def _lock(file: IO[str]) -> None:
    """Wait for an exclusive lock on the file, if the file system supports locks."""
    with suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


def _read_token() -> tuple[str, str]:
    """Return the token that Ray sends, "" if there is none, and where Ray looks for it.

    What is no plain text is none: gRPC ends a process that sends it.
    """
    token, where = os.environ.get(_TOKEN, "").strip(), _TOKEN
    if not token:
        path = Path(os.environ.get(_PATH) or _default_path())
        where = str(path)
        with suppress(OSError):
            token = path.read_text(errors="replace").strip()
    return (token if token.isascii() and token.isprintable() else ""), where


def _default_path() -> Path:
    return Path.home() / ".ray" / "auth_token"


def _is_kubernetes() -> bool:
    """Say whether Ray sends the token of a Kubernetes account, which it finds by itself."""
    return os.environ.get("RAY_ENABLE_K8S_TOKEN_AUTH", "0").lower() in ("1", "true")
