"""Components and sections: the frozen dataclasses of which a scenario is made.

A component has a name, and its fields are its config. A component root (``OptiModule``, ``Source``,
``Partition``...) has a registry, in which a class with a name is registered when it is defined::

    @dataclass(frozen=True)
    class Momentum(OptiModule):
        name: ClassVar[str] = "momentum"
        beta: Fraction = 0.9

Types and bounds are annotations from ``annotated-types``. They are checked when a component is
built, and ``simfl list`` and the JSON Schema are generated from them.

A section has no name: it holds the keys of one part of a scenario (``simfl.sections``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, TypeVar, get_type_hints

from annotated_types import Ge, Gt, Interval

from simfl.errors import ConfigError, ImportPathError, UnknownNameError, did_you_mean
from simfl.plugins import import_installed
from simfl.synonyms import instead_of_name

if TYPE_CHECKING:
    from typing import Self

    from pydantic import TypeAdapter

__all__ = [
    "Component",
    "Count",
    "FlatField",
    "Fraction",
    "NonNegative",
    "Positive",
    "Registry",
    "Section",
    "Share",
    "as_lists",
    "field_types",
    "optional",
    "required",
    "split_spec",
]

KIND = "kind"
"""The key of a component's name, where name and fields are one mapping."""

Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Interval(ge=0, le=1)]
Share = Fraction
"""The previous name of ``Fraction``."""
Count = Annotated[int, Ge(1)]


T = TypeVar("T")


class Registry(Mapping[str, type[T]], Generic[T]):
    """A mapping from names to classes, with a suggestion for a name that is unknown.

    At the first unknown name it imports the plug-ins of installed packages, which may register it.

    >>> fruit = Registry("fruit")
    >>> fruit.add("int", int)
    >>> fruit["imt"]
    Traceback (most recent call last):
    simfl.errors.UnknownNameError: no fruit named 'imt'. Did you mean 'int'?
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._classes: dict[str, type[T]] = {}

    def add(self, name: str, cls: type[T]) -> None:
        """Register a class under a name.

        Raises:
            ConfigError: if another class has the name. The same class again, as when a
                notebook cell or a module is run twice, replaces the previous one.
        """
        previous = self._classes.get(name)
        if previous is not None and _identity(previous) != _identity(cls):
            raise ConfigError(
                f"two classes are called {name!r}: {_identity(previous)} and {_identity(cls)}; "
                f"give the second {self.what} another name"
            )
        self._classes[name] = cls

    def __getitem__(self, name: str) -> type[T]:
        if name not in self:
            instead = instead_of_name(self.what, name)
            raise UnknownNameError(self.what, name, self._classes, instead=instead)
        return self._classes[name]

    def __contains__(self, name: object) -> bool:
        """Return whether a class has the name.

        Raises:
            ImportPathError: if none has, but an installed plug-in that cannot be imported may.
        """
        is_known = name in self._classes
        if not is_known:
            faults = import_installed()
            is_known = name in self._classes
            if faults and not is_known:
                raise ImportPathError(f"no {self.what} named {name!r}, and {faults[0]}")
        return is_known

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))

    def __len__(self) -> int:
        return len(self._classes)


def _identity(cls: type[object]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


class Component:
    """A named frozen dataclass whose fields are its config, JSON-serialisable."""

    name: ClassVar[str]
    """What a scenario calls it."""

    is_frozen: ClassVar[bool] = True
    """Whether instances are immutable, and so may be shared; the dataclass must be frozen, too."""

    runs_code: ClassVar[bool] = False
    """Whether it imports and runs code that a field names; untrusted scenarios may not use it."""

    logs_in: ClassVar[bool] = False
    """Whether it logs in as the user at an address that its fields, or files in the current folder,
    may set. Untrusted scenarios may not use it."""

    takes_read_only: ClassVar[bool] = False
    """Whether it never writes to the Vectors that it is given. Then they may be ``read_only``, on
    memory in the object store; otherwise it is given copies."""

    registry: ClassVar[Registry[Any]]
    """The classes of this kind, by name; set on each root."""

    def __init_subclass__(cls, *, kind: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if kind is not None:
            cls.registry = Registry(kind)
        elif "name" in cls.__dict__:
            cls.registry.add(cls.name, cls)

    def __post_init__(self) -> None:
        """Check every field, then the fields together.

        Raises:
            ConfigError: naming the component, the field, the value and what is allowed.
        """
        if self.is_frozen and not getattr(self, "__dataclass_params__").frozen:  # noqa: B009
            raise ConfigError(f"{type(self).__name__} must be a @dataclass(frozen=True)")
        for name, value in _checked(type(self), self.get_config()).items():
            object.__setattr__(self, name, value)
        self.check()

    def check(self) -> None:
        """Check what concerns several fields at once; raise ConfigError."""

    @property
    def accepts_read_only(self) -> bool:
        """Whether this class itself declares ``takes_read_only``; subclasses do not inherit it."""
        return bool(vars(type(self)).get("takes_read_only"))

    def refuse_untrusted(self) -> str | None:
        """Return why a scenario that is not trusted may not have these fields; None: it may."""
        return None

    def get_config(self) -> dict[str, Any]:
        """Return the fields, by name."""
        return {field.name: getattr(self, field.name) for field in _fields(type(self))}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build from fields by name.

        Raises:
            KeyError: for an entry that is no field, and for a missing one that has no default.
            ConfigError: for a value that a field can't have.
        """
        names = [field.name for field in _fields(cls)]
        if unused := [key for key in config if key not in names]:
            hint = did_you_mean(unused[0], names) if names else "It takes none."
            raise KeyError(f"{cls.name}: unused config entries {unused}. {hint}")
        if missing := [f.name for f in _fields(cls) if _is_required(f) and f.name not in config]:
            raise KeyError(f"{cls.name}: missing config entries {missing}")
        return cls(**config)

    @classmethod
    def from_name(cls, name: str, config: Mapping[str, Any] | None = None) -> Self:
        """Build the component of this kind that has this name.

        Raises:
            UnknownNameError: (a KeyError) with the nearest name.
            KeyError, ConfigError: as ``from_config``.
        """
        found: Self = cls.registry[name].from_config(config or {})
        return found


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


def split_spec(spec: Any, what: str) -> tuple[Any, dict[Any, Any]]:
    """Return the name and the fields of what is written for a component.

    >>> split_spec("momentum", "module")
    ('momentum', {})
    >>> split_spec(["momentum", {"beta": 0.8}], "module")
    ('momentum', {'beta': 0.8})
    >>> split_spec({"kind": "momentum", "beta": 0.8}, "module")
    ('momentum', {'beta': 0.8})

    Raises:
        ConfigError: for any other form.
    """
    match spec:
        case str():
            return spec, {}
        case [name, Mapping() as config]:
            return name, dict(config)
        case Mapping() if KIND in spec:
            return spec[KIND], {key: value for key, value in spec.items() if key != KIND}
    article = "an" if what[0] in "aeiou" else "a"
    raise ConfigError(
        f"should be the name of {article} {what}, [name, {{field: value}}] or {{kind: name}}"
    )


def as_lists(value: Any) -> Any:
    """Copy mappings to dicts and sequences to lists, recursively; return other values unchanged."""
    if isinstance(value, Mapping):
        return {key: as_lists(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_lists(item) for item in value]
    return value


def field_types(cls: type[Any]) -> dict[str, tuple[Any, Any]]:
    """Return ``{field: (annotation with its bounds, default or ...)}``."""
    hints = _hints(cls)  # type: ignore[arg-type]
    return {
        field.name: (hints[field.name], ... if _is_required(field) else _default(field))
        for field in _fields(cls)
    }


@cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    # A scenario is written out several times in a run, and annotations are compiled each time.
    return get_type_hints(cls, include_extras=True)


def _fields(cls: type[Any]) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _checked(cls: type[Component], config: dict[str, Any]) -> dict[str, Any]:
    from pydantic import ValidationError

    checked = {}
    for name, adapter in _adapters(cls).items():  # type: ignore[arg-type]
        try:
            checked[name] = _validated(adapter, config[name])
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Input ")
            raise ConfigError(f"{cls.name}: {name} is {config[name]!r}: {reason}") from None
    return checked


def _validated(adapter: TypeAdapter[Any], value: Any) -> Any:
    """Check a value; convert its lists to tuples, unless the annotation requires lists."""
    from pydantic import ValidationError

    try:
        return adapter.validate_python(_as_tuples(value))
    except ValidationError as error:
        with suppress(ValidationError):
            return adapter.validate_python(value)
        raise error


@cache
def _adapters(cls: type[Component]) -> dict[str, TypeAdapter[Any]]:
    # pydantic checks values here; no component is a pydantic model, nor knows of it.
    from pydantic import ConfigDict, TypeAdapter

    config = ConfigDict(strict=True, arbitrary_types_allowed=True)
    return {
        name: TypeAdapter(hint, config=None if dataclasses.is_dataclass(hint) else config)
        for name, (hint, _) in field_types(cls).items()
    }


def _as_tuples(value: Any) -> Any:
    """Turn lists, as JSON and YAML give them, into the tuples of a frozen dataclass."""
    if isinstance(value, list):
        return tuple(_as_tuples(item) for item in value)
    return value
