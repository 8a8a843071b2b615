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
from typing import Final

__all__ = [
    "AUTH_MODE",
    "address_warning",
    "is_loopback",
    "is_open",
    "keep_token_private",
    "mode_warning",
]

AUTH_MODE: Final = "RAY_AUTH_MODE"
_TOKENS_ELSEWHERE: Final = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_PROBE_TIMEOUT_S: Final = 2.0

# A question that any version of Ray answers, with nothing in it; what counts is whether it is
# refused. The standard health check is answered without a token, and so says nothing.
_QUESTION: Final = "/ray.rpc.NodeInfoGcsService/CheckAlive"


def mode_warning() -> str | None:
    """Say that the environment switches authentication off, where it does."""
    mode = os.environ.get(AUTH_MODE, "token")
    if mode.lower() == "token":
        return None
    return (
        f"{AUTH_MODE} is {mode!r}: whoever reaches the ports of the Ray cluster can run code as "
        f"you; unset it, and Ray asks for a token"
    )


def address_warning(address: str) -> str | None:
    """Say that a cluster on the network lets anybody in, where it does.

    Args:
        address: ``host:port`` of its GCS.
    """
    if not address or is_loopback(address) or not is_open(address):
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


def is_open(address: str) -> bool:
    """Say whether a cluster answers somebody without a token; False where that is not known."""
    import grpc  # type: ignore[import-untyped]

    try:
        with grpc.insecure_channel(address) as channel:
            channel.unary_unary(_QUESTION)(b"", timeout=_PROBE_TIMEOUT_S)
    except grpc.RpcError:
        return False
    return True


def keep_token_private() -> None:
    """Make Ray's token, if there is none yet, and see that only its owner can read it.

    Ray would make it for all to read. One that the user keeps elsewhere is left alone; where the
    home folder can't be written, Ray says so.
    """
    if any(name in os.environ for name in _TOKENS_ELSEWHERE):
        return
    path = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)
