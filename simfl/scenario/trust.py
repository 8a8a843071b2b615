"""Trust: whether a scenario may have code of its author's imported and run."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

Trust: TypeAlias = Literal["all", "none"]
"""``all``: plug-ins and ``python`` components are imported, as the scenario says. ``none``: a
scenario that names any is refused, and no folder is added to where Python looks for modules."""

_PLAIN: Final = ("file", "local", "memory", "s3", "gs", "gcs", "az", "abfs", "abfss")
"""The protocols that lead only to files, and do not send the user's credentials to a host that the
URL names."""


def is_untrusted(context: object) -> bool:
    """Say whether a pydantic validation context belongs to an untrusted scenario."""
    return isinstance(context, dict) and context.get("trust") == "none"


def own_address(address: str | None, trust: Trust) -> list[str]:
    """Return the override with which the user's address replaces an untrusted scenario's.

    >>> own_address("10.0.0.5:6379", "none"), own_address("10.0.0.5:6379", "all")
    (['cluster.address=null'], [])
    """
    return ["cluster.address=null"] if address is not None and trust == "none" else []


def is_plain_location(location: str) -> bool:
    """Say whether a path or URL only leads to files.

    Some of fsspec's file systems, such as ``reference``, run code from their files, and others are
    reached through a chain of URLs.

    >>> is_plain_location("runs/1"), is_plain_location("s3://bucket/runs")
    (True, True)
    >>> is_plain_location("reference::file:///refs.json"), is_plain_location("ssh://host/x")
    (False, False)
    """
    protocol, is_url, _ = location.partition("://")
    return "::" not in location and (not is_url or protocol in _PLAIN)


def refusal(what: str) -> str:
    """Say that something is refused because it would run code.

    >>> refusal("is 'python'")
    "is 'python', which runs code of the scenario's author, and trust is 'none'; leave it out, or \
see that the code is safe and trust it"
    """
    return (
        f"{what}, which runs code of the scenario's author, and trust is 'none'; "
        "leave it out, or see that the code is safe and trust it"
    )
