"""Named: how a scenario names a component, and how the component is made from that.

There are three ways to write one, everywhere the same::

    momentum                          the name, where no field is required
    [momentum, {beta: 0.8}]           a pair of name and fields
    {kind: momentum, beta: 0.8}       one mapping
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired

from pydantic import AfterValidator, TypeAdapter, ValidationError, ValidationInfo
from pydantic_core import PydanticCustomError, core_schema
from typing_extensions import TypedDict

from simfl.component import Component, NonNegative, field_types
from simfl.errors import ConfigError, InputError, UnknownNameError, did_you_mean
from simfl.scenario.section import STRICT, Flat, mark_unknown
from simfl.scenario.trust import is_untrusted, refusal

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

KIND = "kind"
"""The key of a component's name, where name and fields are one mapping."""

FAULT = "simfl"
"""The pydantic error type of our own messages."""


_ADAPTERS: dict[type[Component], TypeAdapter[dict[str, Any]]] = {}


class Named:
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
        if isinstance(value, Flat):
            return self._build(value.name, value.config, info, siblings=value.siblings)
        if isinstance(value, str):
            return self._build(value, {}, info)
        if isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[1], Mapping):
            return self._build(value[0], value[1], info)
        if isinstance(value, Mapping) and KIND in value:
            config = {key: item for key, item in value.items() if key != KIND}
            return self._build(value[KIND], config, info, at=(KIND,))
        raise fault(
            f"should be the name of a {self.what}, [name, {{field: value}}] or {{kind: name}}"
        )

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
        marked = mark_unknown(values, known=field_types(cls), also=siblings)
        return cls.from_config(fields_adapter(cls).validate_python(marked, context=info.context))

    def _find(self, name: Any) -> type[Component]:
        if not isinstance(name, str):
            raise PydanticCustomError("string_type", "Input should be a valid string")
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


class Rate(Named):
    """Marks a field as holding a number, or a schedule of numbers."""

    def read(self, value: Any, info: ValidationInfo) -> Any:
        """Return the number or the schedule."""
        if isinstance(value, int | float):
            return _number().validate_python(value)
        if isinstance(value, str) and value not in self.root.registry:
            hint = did_you_mean(value, self.root.registry)
            raise fault(f"should be a number or the name of a {self.what}. {hint}".rstrip())
        return super().read(value, info)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [{"type": "number", "minimum": 0}, {"x-component": self.what}]}


def fault(message: str) -> PydanticCustomError:
    """Make a pydantic error that says just this."""
    return PydanticCustomError(FAULT, "{message}", {"message": message})


def fields_adapter(cls: type[Component]) -> TypeAdapter[dict[str, Any]]:
    """Return what checks a component's fields; it is made when it is first needed.

    Raises:
        ConfigError: if a field is called as the key that names the component.
    """
    if cls not in _ADAPTERS:
        # Not a model: its attributes would be in the way of fields called copy, json or schema.
        typed_dict: Any = TypedDict
        fields = typed_dict(cls.__name__, _fields(cls))
        fields.__pydantic_config__ = STRICT
        _ADAPTERS[cls] = TypeAdapter(fields)
    return _ADAPTERS[cls]


def _fields(cls: type[Component]) -> dict[str, Any]:
    fields = field_types(cls)
    if KIND in fields:
        raise ConfigError(
            f"{cls.name} has a field called {KIND!r}, which in a scenario is the name of the "
            "component; rename the field"
        )
    validators = {
        **dict.fromkeys(getattr(cls, "file_fields", ()), _existing_file),
        **dict.fromkeys(getattr(cls, "file_or_name_fields", ()), _file_or_name),
    }
    types = {}
    for name, (hint, default) in fields.items():
        checked = Annotated[hint, AfterValidator(validators[name])] if name in validators else hint
        types[name] = checked if default is ... else NotRequired[checked]
    return types


def _existing_file(value: str | None, info: ValidationInfo) -> str | None:
    """Return the absolute path of a file beside the scenario, or else in the current folder."""
    if value is None:
        return None
    tried = _candidates(value, info)
    for path in tried:
        if os.path.exists(path):
            return path
    raise fault(f"is {value!r}, and there is no such file; looked for {' and '.join(tried)}")


def _file_or_name(value: str, info: ValidationInfo) -> str:
    """Return the absolute path if there is such a file, or else the value: it may be a name."""
    return next((path for path in _candidates(value, info) if os.path.exists(path)), value)


def _candidates(value: str, info: ValidationInfo) -> list[str]:
    folders = (info.context or {}).get("folders") or (Path.cwd(),)
    return list(dict.fromkeys(os.path.abspath(folder / value) for folder in folders))


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


@cache
def _number() -> TypeAdapter[float]:
    return TypeAdapter(NonNegative, config={"strict": True, "allow_inf_nan": False})
