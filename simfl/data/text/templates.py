"""Templates: text with the names of fields in braces."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from simfl.data.text.records import Records
from simfl.errors import ConfigError, DataError

Template: TypeAlias = "tuple[tuple[str, str | None], ...]"
"""Text, and the field that follows it, if any."""


def parse_template(text: str, *, what: str) -> Template:
    """Split a template; ``{{`` and ``}}`` stand for braces.

    Raises:
        ConfigError: if braces do not match, or hold more than the name of a field.

    >>> parse_template("Q: {question}! {{}}", what="prompt")
    (('Q: ', 'question'), ('! {', None), ('}', None))
    """
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ConfigError(f"{what} is {text!r}: {error}; write {{{{ for a brace") from None
    for _, name, form, conversion in parts:
        if name is not None and (form or conversion or not name.strip()):
            raise ConfigError(f"{what} is {text!r}; braces hold the name of a field, and no more")
    return tuple((literal, name) for literal, name, _, _ in parts)


def render_choices(templates: Sequence[Template], records: Records, row: int) -> list[str]:
    """Fill a row's fields into templates; one with a list is filled for each of its elements.

    Raises:
        DataError: as ``render``, or if a template has two lists.
    """
    texts: list[str] = []
    for template in templates:
        values = {name: records.get(row, name) for _, name in template if name is not None}
        lists = [name for name, value in values.items() if isinstance(value, list)]
        if len(lists) > 1:
            raise DataError(
                f"{records.place(row)}: fields {lists[0]!r} and {lists[1]!r} are both lists; "
                "choices take one"
            )
        each = [{lists[0]: element} for element in values[lists[0]]] if lists else [{}]
        texts += [render(template, records, row, instead=instead) for instead in each]
    return texts


def render(
    template: Template, records: Records, row: int, *, instead: Mapping[str, Any] | None = None
) -> str:
    """Fill a row's fields into a template; null is no text.

    Args:
        template: the parsed one.
        records: the rows.
        row: which of them.
        instead: other values of some fields.

    Raises:
        DataError: if a field is missing, is no text or number, or cannot be encoded.
    """
    pieces = []
    for literal, name in template:
        pieces.append(literal)
        if name is not None:
            value = instead[name] if instead and name in instead else records.get(row, name)
            pieces.append(_text(value, name, records, row))
    text = "".join(pieces)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{records.place(row)} holds half of a surrogate pair, no text") from None
    return text


def _text(value: object, name: str, records: Records, row: int) -> str:
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise DataError(
            f"{records.place(row)}: field {name!r} is a {type(value).__name__}; text or a number "
            "is needed"
        )
    return str(value)
