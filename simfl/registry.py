"""Names for classes: what a scenario can name is found here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from simfl.errors import ConfigError, UnknownNameError

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Mapping[str, type[T]], Generic[T]):
    """A mapping from names to classes which suggests the nearest name when one is not there.

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
        """Give a class its name.

        Raises:
            ConfigError: if another class has the name. The same class again, as when a
                notebook cell or a module is run twice, replaces the former one.
        """
        former = self._classes.get(name)
        if former is not None and _identity(former) != _identity(cls):
            raise ConfigError(
                f"two classes are called {name!r}: {_identity(former)} and {_identity(cls)}; "
                f"give the second {self.what} another name"
            )
        self._classes[name] = cls

    def __getitem__(self, name: str) -> type[T]:
        if name not in self._classes:
            raise UnknownNameError(self.what, name, self._classes)
        return self._classes[name]

    def __contains__(self, name: object) -> bool:
        return name in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))

    def __len__(self) -> int:
        return len(self._classes)


def _identity(cls: type[object]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
