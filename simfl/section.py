"""Section: the keys of one part of a scenario, as a frozen dataclass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

__all__ = ["FlatField", "Section", "optional", "required"]


@dataclass(frozen=True)
class FlatField:
    """Declares that one component's fields are keys of the section itself."""

    attribute: str
    """The section's attribute that holds the component."""
    key: str
    """The key that holds the component's name."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """Base class of sections; a section's fields are its keys.

    A key's type, bounds, default and documentation are declared here once: the annotation, with
    bounds from ``annotated-types``; the default; and the literal beneath. ``simfl.scenario`` checks
    what users write against them, and hands the section on unchanged.
    """

    flat: ClassVar[FlatField | None] = None
    address_fields: ClassVar[tuple[str, ...]] = ()
    """The keys with an address to which the user's credentials are sent."""
    location_fields: ClassVar[tuple[str, ...]] = ()
    """The keys with a folder or URL that is read from and written to."""


def required(*, example: Any, pattern: str | None = None) -> Any:
    """Declare a field without a default.

    Args:
        example: a value for the error message if the key is missing.
        pattern: a regular expression that text must match.
    """
    constraints: dict[str, Any] = {} if pattern is None else {"pattern": pattern}
    return dataclasses.field(metadata={"examples": [example], **constraints})


def optional(default_factory: Callable[[], Any], *, example: Any) -> Any:
    """Declare a field whose default needs an example to be understood."""
    return dataclasses.field(default_factory=default_factory, metadata={"examples": [example]})
