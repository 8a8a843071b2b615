"""What single values must be, beyond their type: files, names, and what trust allows.

Trust decides whether a scenario may have its author's code imported and run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal, TypeAlias

from pydantic import ValidationInfo
from pydantic_core import PydanticCustomError

from simfl.scenario.document import show

_MAX_NAME: Final = 200
_MAX_LABEL: Final = 60


def fault(message: str) -> PydanticCustomError:
    """Make a pydantic error that says just this."""
    return PydanticCustomError("simfl", "{message}", {"message": message})


def folder_name(name: str) -> str:
    """Check that text can be part of a folder's name, and be shown by a terminal."""
    if not name.isprintable() or not 0 < len(name.encode()) <= _MAX_NAME or set(name) & set("/\\"):
        raise fault(
            f"is {show(name)}, which is part of a folder's name; use printable characters but "
            f"'/' and '\\', {_MAX_NAME} bytes at most"
        )
    return name


def check_label(text: str) -> str:
    """Check that a label is a line that fits into a legend."""
    if not text.isprintable() or not 0 < len(text) <= _MAX_LABEL:
        raise fault(f"is {show(text)}; use 1 to {_MAX_LABEL} printable characters")
    return text


def existing_file(value: str | None, info: ValidationInfo) -> str | None:
    """Return the absolute path of a file next to the scenario, or else in the current folder."""
    if value is None:
        return None
    tried = _candidates(value, info)
    for path in tried:
        if os.path.exists(path):
            return path
    raise fault(f"is {value!r}, and there is no such file; looked for {' and '.join(tried)}")


def file_or_name(value: str | None, info: ValidationInfo) -> str | None:
    """Return the absolute path if there is such a file, or else the value: it may be a name."""
    if value is None:
        return None
    return next((path for path in _candidates(value, info) if os.path.exists(path)), value)


def json_file_or_name(value: str, info: ValidationInfo) -> str | None:
    """Return the absolute path of a file that ends with .json, or another value as it is."""
    return existing_file(value, info) if value.endswith(".json") else value


def trusted_modules(named: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    """Refuse modules, and folders of modules, in an untrusted scenario."""
    if named and is_untrusted(info.context):
        raise fault(refusal(f"is {show(named)}"))
    return named


def trusted_address(address: str | None, info: ValidationInfo) -> str | None:
    """Refuse an address in an untrusted scenario."""
    if address not in (None, "local") and is_untrusted(info.context):
        raise fault(
            f"is {show(address)}, where your Ray token would be sent, and trust is 'none'; remove "
            "it, and use --address if you trust that cluster"
        )
    return address


def trusted_location(location: str | None, info: ValidationInfo) -> str | None:
    """Refuse a location that may run code in an untrusted scenario."""
    if location is not None and is_untrusted(info.context) and not is_plain_location(location):
        raise fault(
            f"is {show(location)}, which may run code or log in as you elsewhere, and trust is "
            "'none'; use a folder, or one URL that begins with s3://, gs:// or abfs://"
        )
    return location


def _candidates(value: str, info: ValidationInfo) -> list[str]:
    folders = (info.context or {}).get("folders") or (Path.cwd(),)
    return list(dict.fromkeys(os.path.abspath(folder / value) for folder in folders))


Trust: TypeAlias = Literal["all", "none"]
"""``all``: plug-ins and ``python`` components are imported as the scenario asks. ``none``: a
scenario that names any is refused, and no folder is added to ``sys.path``."""

_PLAIN: Final = ("file", "local", "memory", "s3", "gs", "gcs", "az", "abfs", "abfss")
"""The protocols that only access files, and do not send the user's credentials to a host named in
the URL."""


def is_untrusted(context: object) -> bool:
    """Return whether a pydantic validation context belongs to an untrusted scenario."""
    return isinstance(context, dict) and context.get("trust") == "none"


def own_address(address: str | None, trust: Trust) -> list[str]:
    """Return the override that drops an untrusted scenario's address when the user gives one.

    >>> own_address("10.0.0.5:6379", "none"), own_address("10.0.0.5:6379", "all")
    (['cluster.address=null'], [])
    """
    return ["cluster.address=null"] if address is not None and trust == "none" else []


def is_plain_location(location: str) -> bool:
    """Return whether a path or URL only leads to files.

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
    """Return the message for something refused because it would run code.

    >>> refusal("is 'python'")
    "is 'python', which runs code of the scenario's author, and trust is 'none'; remove it, or \
check that the code is safe and trust it"
    """
    return (
        f"{what}, which runs code of the scenario's author, and trust is 'none'; "
        "remove it, or check that the code is safe and trust it"
    )
