"""Section: what every part of a scenario is, and how its unknown keys are told apart."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, model_validator

from simfl.errors import did_you_mean

STRICT: Final = ConfigDict(
    strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True
)
"""Nothing is converted but whole numbers to floats, and nothing unknown is let through."""


@dataclass(frozen=True)
class FlatField:
    """Says that one component's fields lie in the section itself, beside the key that names it."""

    attribute: str
    """The section's attribute that holds the component."""
    key: str
    """The key that holds the component's name."""


@dataclass(frozen=True)
class Flat:
    """A component's name and fields, picked out of the section that they lie in."""

    name: Any
    config: dict[Any, Any]
    siblings: tuple[str, ...]
    """The section's own keys, which are not the component's."""


@dataclass(frozen=True)
class UnknownKey:
    """Stands for the value of a key that nobody knows, with what to say about it."""

    value: Any
    hint: str


class Section(BaseModel):
    """A mapping of keys: strict types, nothing unknown, unchangeable once it is made."""

    model_config = ConfigDict(**STRICT, frozen=True, use_attribute_docstrings=True)

    flat: ClassVar[FlatField | None] = None

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        """Return the section's own keys, the one that names its flat component included."""
        if cls.flat is None:
            return tuple(cls.model_fields)
        renamed = {cls.flat.attribute: cls.flat.key}
        return tuple(renamed.get(name, name) for name in cls.model_fields)

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, value: Any) -> Any:
        """Make tuples of lists, gather the flat component, mark what is unknown."""
        if not isinstance(value, dict):
            return value
        values = {key: tuple(v) if isinstance(v, list) else v for key, v in value.items()}
        if cls.flat is None:
            return mark_unknown(values, known=cls.model_fields)
        return _gathered(values, cls.flat, keys=cls.keys())


def mark_unknown(
    values: Mapping[Any, Any], *, known: Collection[str], also: Collection[str] = ()
) -> dict[Any, Any]:
    """Put an ``UnknownKey`` in place of each value whose key is not known.

    Args:
        values: by key.
        known: the keys that may be there.
        also: further keys that a misspelt one may have meant.
    """
    names, meant = set(known), {*known, *also}
    return {
        key: value
        if key in names or isinstance(value, UnknownKey)
        else UnknownKey(value, did_you_mean(str(key), meant))
        for key, value in values.items()
    }


def _gathered(values: dict[Any, Any], flat: FlatField, *, keys: tuple[str, ...]) -> dict[Any, Any]:
    own = {key: value for key, value in values.items() if key in keys and key != flat.key}
    if flat.key in values:
        config = {key: value for key, value in values.items() if key not in keys}
        own[flat.attribute] = Flat(values[flat.key], config, keys)
    return own
