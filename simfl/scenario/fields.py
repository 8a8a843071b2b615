"""How the fields of sections and components are read.

A component is written in one of three ways, everywhere the same::

    momentum                          the name, where no field is required
    [momentum, {beta: 0.8}]           a pair of name and fields
    {kind: momentum, beta: 0.8}       one mapping
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo
from pydantic_core import PydanticCustomError, PydanticKnownError, core_schema
from typing_extensions import TypedDict

from simfl.component import KIND, Component, NonNegative, Section, field_types, split_spec
from simfl.errors import ConfigError, InputError, UnknownNameError, did_you_mean, plain_word
from simfl.scenario.document import show
from simfl.scenario.validators import (
    existing_file,
    fault,
    file_or_name,
    is_untrusted,
    json_file_or_name,
    refusal,
    trusted_address,
    trusted_location,
)
from simfl.synonyms import ANYWHERE, instead_of_key, instead_of_name

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

S = TypeVar("S", bound=Section)

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
"""Nothing is converted but whole numbers to floats, and no unknown key is accepted."""

_NUMBER = ConfigDict(strict=True, allow_inf_nan=False)

_ADAPTERS: dict[type[Section | Component], TypeAdapter[dict[str, Any]]] = {}

_VALIDATORS = {
    "file_fields": existing_file,
    "file_or_name_fields": file_or_name,
    "json_file_or_name_fields": json_file_or_name,
    "address_fields": trusted_address,
    "location_fields": trusted_location,
}
"""By the class attribute that lists the fields."""


@dataclass(frozen=True)
class UnknownKey:
    """Stands for the value of an unknown key, with a hint about the key."""

    value: Any
    hint: str


@dataclass(frozen=True)
class _Flat:
    """A component's name and fields, taken out of the section whose keys they are."""

    name: Any
    config: dict[Any, Any]
    siblings: tuple[str, ...]
    """The section's own keys, which are not the component's."""


def keys_of(cls: type[Section | Component]) -> dict[str, tuple[Any, Any]]:
    """Return ``{field: (annotation with its bounds, default or ...)}`` of what can be written."""
    return {name: field for name, field in field_types(cls).items() if not name.startswith("_")}


def metadata_of(section: type[Section]) -> dict[str, Mapping[str, Any]]:
    """Return ``{field: {"examples": [...], "pattern": ...}}``, each where there is one."""
    return {field.name: field.metadata for field in dataclasses.fields(section)}


def read_section(cls: type[S], values: Mapping[Any, Any], *, context: Any) -> S:
    """Check a section's keys and make the section.

    Args:
        cls: the section.
        values: what was written, by key.
        context: the validation context: ``folders`` and ``trust``.

    Raises:
        ValidationError: with each fault.
    """
    given = {key: _as_tuples(value) for key, value in values.items()}
    known = keys_of(cls)
    if cls.flat is None:
        marked = _mark_unknown(given, known=known, places=(cls.__name__, ANYWHERE))
    else:
        attribute, key = cls.flat.attribute, cls.flat.key
        siblings = tuple(key if name == attribute else name for name in known)
        marked = {name: value for name, value in given.items() if name in siblings and name != key}
        if key in given:
            config = {name: value for name, value in given.items() if name not in siblings}
            marked[attribute] = _Flat(given[key], config, siblings)
    return cls(**fields_adapter(cls).validate_python(marked, context=context))


def fields_adapter(cls: type[Section | Component]) -> TypeAdapter[dict[str, Any]]:
    """Return what checks the fields of a section or a component; it is made when first needed.

    Raises:
        ConfigError: if a component's field is called as the key that names the component.
    """
    if cls not in _ADAPTERS:
        # Not a model: its attributes would be in the way of fields called copy, json or schema.
        typed_dict: Any = TypedDict
        fields = typed_dict(cls.__name__, _fields(cls))
        fields.__pydantic_config__ = _STRICT
        _ADAPTERS[cls] = TypeAdapter(fields)
    return _ADAPTERS[cls]


def _fields(cls: type[Section | Component]) -> dict[str, Any]:
    fields = keys_of(cls)
    if issubclass(cls, Component) and KIND in fields:
        raise ConfigError(
            f"{cls.name} has a field called {KIND!r}, which in a scenario is the name of the "
            "component; rename the field"
        )
    metadata = metadata_of(cls) if issubclass(cls, Section) else {}
    types = {}
    for name, (hint, default) in fields.items():
        checked = _marked(hint)
        for attribute, validator in _VALIDATORS.items():
            if name in getattr(cls, attribute, ()):
                checked = Annotated[checked, AfterValidator(validator)]
        if metadata.get(name):
            checked = Annotated[checked, Field(**metadata[name])]
        types[name] = checked if default is ... else NotRequired[checked]
    return types


def _marked(hint: Any) -> Any:
    """Return a type with each component and section in it marked for how it is written."""
    if isinstance(hint, type):
        if issubclass(hint, Component):
            return Annotated[hint, _Named(hint)]
        return Annotated[hint, _Keys(hint)] if issubclass(hint, Section) else hint
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return Annotated[_marked(args[0]), *args[1:]]
    if origin in (Union, UnionType):
        roots = [arg for arg in args if isinstance(arg, type) and issubclass(arg, Component)]
        numbers = [arg for arg in args if arg not in (*roots, NoneType)]
        if roots and numbers:
            marked = Annotated[hint, _NumberOr(roots[0], numbers[0])]
            return marked | None if NoneType in args else marked
        return Union[tuple(map(_marked, args))]  # noqa: UP007
    if origin in (tuple, list):
        return origin[tuple(arg if arg is ... else _marked(arg) for arg in args)]
    return hint


class _Keys:
    """Marks a field as holding a section."""

    def __init__(self, section: type[Section]) -> None:
        self.section = section

    def read(self, value: Any, info: ValidationInfo) -> Section:
        """Return the section that the mapping describes."""
        if isinstance(value, self.section):
            return value
        if not isinstance(value, Mapping):
            raise self._no_mapping(value, info.field_name)
        return read_section(self.section, value, context=info.context)

    def _no_mapping(self, value: Any, key: str | None) -> Exception:
        instead = self._instead_of(value, key) if isinstance(value, str) else None
        if instead is None:
            return PydanticKnownError("dict_type")
        return fault(f"is {show(value)}; should be a mapping of keys. Write {instead}")

    def _instead_of(self, name: str, key: str | None) -> str | None:
        """Return the lines to write instead of a name alone."""
        flat = self.section.flat
        if flat is None:
            return instead_of_name(self.section.__name__, name)
        registry = field_types(self.section)[flat.attribute][0].registry
        if name in registry:
            return f"{key}: {{{flat.key}: {name}}}"
        return instead_of_name(registry.what, name)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"x-section": self.section.__name__}


class _Named:
    """Marks a field as holding a component of one kind."""

    def __init__(self, root: type[Component]) -> None:
        self.root = root

    @property
    def what(self) -> str:
        """What components of this kind are called: "module", "partition"..."""
        return str(self.root.registry.what)

    def read(self, value: Any, info: ValidationInfo) -> Any:
        """Return the component that the value names."""
        try:
            return self._read(value, info)
        except (InputError, KeyError) as error:
            raise fault(str(error.args[0])) from None

    def _read(self, value: Any, info: ValidationInfo) -> Component:
        if isinstance(value, self.root):
            return value
        if isinstance(value, _Flat) and isinstance(value.name, self.root):
            return value.name
        if isinstance(value, _Flat):
            return self._build(value.name, value.config, info, siblings=value.siblings)
        name, config = split_spec(value, self.what)
        return self._build(name, config, info, at=(KIND,) if isinstance(value, Mapping) else ())

    def _build(
        self,
        name: Any,
        config: Mapping[Any, Any],
        info: ValidationInfo,
        *,
        at: tuple[str, ...] = (),
        siblings: tuple[str, ...] = (),
    ) -> Component:
        try:
            cls = self._find(name)
        except PydanticCustomError as error:
            raise _placed(error, name, at=at) from None
        if is_untrusted(info.context) and (reason := _refused(cls)):
            raise _placed(fault(reason), name, at=at)
        values = {key: _as_tuples(value) for key, value in config.items()}
        places = (f"{self.what} {cls.name}", self.what, *((ANYWHERE,) if siblings else ()))
        marked = _mark_unknown(values, known=field_types(cls), also=siblings, places=places)
        made = cls.from_config(fields_adapter(cls).validate_python(marked, context=info.context))
        if is_untrusted(info.context) and (reason := made.refuse_untrusted()):
            raise _placed(fault(reason), name, at=at)
        return made

    def _find(self, name: Any) -> type[Component]:
        if not isinstance(name, str):
            raise PydanticCustomError("string_type", "should be text")
        try:
            found: type[Component] = self.root.registry[name]
        except UnknownNameError as error:
            raise fault(str(error)) from None
        return found

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        # What can be named changes with plug-ins: json_schema.py fills this in.
        return {"x-component": self.what}


class _NumberOr(_Named):
    """Marks a field as holding a number, or a component in its place: a schedule of rates..."""

    def __init__(self, root: type[Component], number: Any) -> None:
        super().__init__(root)
        self.number = TypeAdapter[float](NonNegative if number is float else number, config=_NUMBER)
        self.stays_whole = number is not float

    def read(self, value: Any, info: ValidationInfo) -> Any:
        """Return the number or the component."""
        if isinstance(value, int | float):
            checked = self.number.validate_python(value)
            return value if self.stays_whole else checked
        if isinstance(value, str) and value not in self.root.registry:
            instead = instead_of_name(self.what, value)
            hint = f"Write {instead}" if instead else did_you_mean(value, self.root.registry)
            raise fault(f"should be a number or the name of a {self.what}. {hint}".rstrip())
        return super().read(value, info)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [self.number.json_schema(), {"x-component": self.what}]}


def _mark_unknown(
    values: Mapping[Any, Any],
    *,
    known: Collection[str],
    places: Sequence[str],
    also: Collection[str] = (),
) -> dict[Any, Any]:
    """Put an ``UnknownKey`` in place of each value whose key is not known.

    Args:
        values: by key.
        known: the keys that there are.
        places: where ``synonyms.KEYS`` may have what else a key is called.
        also: further keys that a misspelt one may have meant.
    """

    def hint(key: str) -> str:
        is_misspelt = plain_word(key) in map(plain_word, known)
        instead = None if is_misspelt else instead_of_key(places, key)
        return f"Write {instead}" if instead else did_you_mean(key, {*known, *also})

    return {
        key: value if key in known else UnknownKey(value, hint(str(key)))
        for key, value in values.items()
    }


def _refused(cls: type[Component]) -> str | None:
    """Return the reason if an untrusted scenario may not name the component."""
    if cls.runs_code:
        return refusal(f"is {cls.name!r}")
    if cls.logs_in:
        return (
            f"is {cls.name!r}, which logs in as you at an address that the scenario or a file "
            "next to it sets, and trust is 'none'; remove it, or check the address and trust it"
        )
    return None


def _placed(error: PydanticCustomError, value: Any, *, at: tuple[str, ...]) -> Exception:
    if not at:
        return error
    return ValidationError.from_exception_data("", [{"type": error, "loc": at, "input": value}])


def _as_tuples(value: Any) -> Any:
    """Turn lists into the tuples of a frozen dataclass; what is in mappings is left alone."""
    if isinstance(value, list | tuple):
        return tuple(_as_tuples(item) for item in value)
    return value
