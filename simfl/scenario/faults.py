"""From what pydantic found to one clear line per fault."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from simfl.component import Section
from simfl.errors import ScenarioError, did_you_mean
from simfl.scenario.document import Document, Path, show
from simfl.scenario.fields import UnknownKey, keys_of, metadata_of
from simfl.scenario.yaml_format import flow_yaml

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_TEXTS: Final = {
    "bool_type": "should be true or false",
    "dict_type": "should be a mapping of keys",
    "finite_number": "should be a finite number",
    "float_type": "should be a number",
    "greater_than": "should be greater than {gt}",
    "greater_than_equal": "should be at least {ge}",
    "int_type": "should be an integer",
    "less_than": "should be less than {lt}",
    "less_than_equal": "should be at most {le}",
    "list_type": "should be a list",
    "literal_error": "should be {expected}",
    "string_pattern_mismatch": "should be small letters, digits, '-' and '_'",
    "string_too_long": "should have at most {max_length} character{s}",
    "string_too_short": "should have at least {min_length} character{s}",
    "string_type": "should be text",
    "too_long": "should have at most {max_length} item{s}",
    "too_short": "should have at least {min_length} item{s}",
    "tuple_type": "should be a list",
}
"""What a fault says, by pydantic's type of error, with the values of its context."""


@dataclass(frozen=True)
class _Fault:
    path: Path
    message: str
    union: Path | None
    """The path of the value of several possible types that this is one branch of."""


def scenario_error(
    error: ValidationError, document: Document, *, schema: type[Section]
) -> ScenarioError:
    """Make the error that users see: a line for each fault, in the order of the file."""
    found = [
        _fault(details, document.values, schema) for details in error.errors(include_url=False)
    ]
    merged = sorted(_merged(found), key=lambda fault: document.place(fault.path))
    return ScenarioError([document.fault_line(fault.path, fault.message) for fault in merged])


def _fault(details: ErrorDetails, values: Any, schema: type[Section]) -> _Fault:
    loc = _as_written(details["loc"], schema)
    if loc[-1:] == ("[key]",):  # pydantic's place of a mapping's key
        loc, details = loc[:-1], {**details, "type": "invalid_key"}
    is_missing = details["type"] == "missing"
    # What is missing, or no text, cannot be followed as a key.
    is_key = not is_missing and details["type"] != "invalid_key"
    path, union, value = _resolve(loc if is_key else loc[:-1], values)
    if is_missing:
        path = (*path, loc[-1])
        message = f"is missing and has no default; add {_example(path, schema)}"
    else:
        message = _message(details, value)
    return _Fault(path, message, union)


def _as_written(loc: Path, schema: type[Section]) -> Path:
    """Put the fields of a flat component where the user has them: in the section itself."""
    section = _section_type(schema, loc[0]) if loc else None
    flat = section.flat if section else None
    if flat is None or len(loc) < 2 or loc[1] != flat.attribute:
        return loc
    return (loc[0], flat.key) if len(loc) == 2 else (loc[0], *loc[2:])


def _resolve(loc: Path, value: Any) -> tuple[Path, Path | None, Any]:
    """Leave out of a pydantic location what names a branch of a union and not a key.

    Returns:
        The path, that of the union if there is one, and the value as it was written.
    """
    path: Path = ()
    union = None
    for part in loc:
        is_key, inner = _step(value, part)
        if is_key:
            path, value = (*path, part), inner
        elif union is None:
            union = path
    return path, union, value


def _step(value: Any, part: str | int) -> tuple[bool, Any]:
    if isinstance(value, Mapping) and part in value:
        return True, value[part]
    if isinstance(value, list | tuple):
        if isinstance(part, int) and part < len(value):
            return True, value[part]
        if len(value) == 2 and isinstance(value[1], Mapping) and part in value[1]:
            return True, value[1][part]
    return False, value


def _merged(faults: Iterable[_Fault]) -> list[_Fault]:
    """Make one fault of the branches of each union: of those that went deepest into the value."""
    branches: dict[Path, list[_Fault]] = {}
    merged = []
    for fault in faults:
        if fault.union is None:
            merged.append(fault)
        else:
            branches.setdefault(fault.union, []).append(fault)
    for group in branches.values():
        depth = max(len(fault.path) for fault in group)
        deepest = [fault for fault in group if len(fault.path) == depth]
        same = [fault for fault in deepest if fault.path == deepest[0].path]
        merged.append(_Fault(same[0].path, _joined(fault.message for fault in same), None))
    return merged


def _joined(messages: Iterable[str]) -> str:
    first, *others = dict.fromkeys(messages)
    return " or ".join([first, *(other.rpartition("should be ")[2] for other in others)])


def _message(details: ErrorDetails, value: Any) -> str:
    match details["type"]:
        case "extra_forbidden" if isinstance(details["input"], UnknownKey):
            hint = details["input"].hint
            return f"is {show(value)}, but there is no such key. {hint}".rstrip()
        case "invalid_key":
            return f"has the key {show(details['input'])}, which is not text; put it in quotes"
        case "dict_type" if value is None:
            text = "write its keys beneath it"
        case "string_type" if isinstance(value, Mapping):
            text = "should be text; put it in quotes, as YAML reads braces as a mapping"
        case kind if kind in _TEXTS:
            text = _TEXTS[kind].format_map(_shown(details.get("ctx", {})))
            if kind == "literal_error" and isinstance(value, str):
                text += _nearest(value, details["ctx"]["expected"].split("'")[1::2])
        case _:
            text = details["msg"].removeprefix("Input ")
    return f"is {show(value)}; {text}" if text.startswith(("should", "write")) else text


def _shown(context: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of an error's context as a message has them."""
    length = context.get("min_length", context.get("max_length"))
    numbers = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in context.items()
    }
    return {**numbers, "s": "" if length == 1 else "s"}


def _nearest(name: str, known: list[str]) -> str:
    hint = did_you_mean(name, known)
    return f". {hint}" if hint.startswith("Did") else ""


def _example(path: Path, schema: type[Section]) -> str:
    """Return "for example `rounds: 100`", or "it" for a component's field."""
    section: type[Section] | None = schema
    for part in path[:-1]:
        section = _section_type(section, part) if section else None
    if section is None:
        return "it"
    attributes = {section.flat.key: section.flat.attribute} if section.flat else {}
    key = str(path[-1])
    examples = metadata_of(section).get(attributes.get(key, key), {}).get("examples")
    return f"for example `{flow_yaml({key: examples[0]})[1:-1]}`" if examples else "it"


def _section_type(schema: type[Section], name: str | int) -> type[Section] | None:
    kind, _ = keys_of(schema).get(str(name), (None, None))
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None
