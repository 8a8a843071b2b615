"""What single values must be, beyond their type: files, names, and what trust allows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from pydantic import ValidationInfo
from pydantic_core import PydanticCustomError

from simfl.scenario.document import show
from simfl.scenario.trust import is_plain_location, is_untrusted, refusal

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


def file_or_name(value: str, info: ValidationInfo) -> str:
    """Return the absolute path if there is such a file, or else the value: it may be a name."""
    return next((path for path in _candidates(value, info) if os.path.exists(path)), value)


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
