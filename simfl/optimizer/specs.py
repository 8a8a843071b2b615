"""From what a user writes to components: an instance, or what ``split_spec`` reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableSequence, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

from simfl.component import Component, as_lists, split_spec
from simfl.errors import ConfigError

C = TypeVar("C", bound=Component)

Spec: TypeAlias = "Component | str | tuple[str, Mapping[str, Any]] | list[Any] | Mapping[str, Any]"
"""A component as a user writes it: an instance, a name, a pair of name and fields, or a mapping."""


def build_component(root: type[C], spec: Any, *, place: str) -> C:
    """Build a component of a kind.

    Args:
        root: the kind: ``OptiModule``, ``Regularizer`` or ``Schedule``.
        spec: an instance, a name, ``[name, {field: value}]`` or ``{"kind": name, field: value}``.
        place: what to call it in an error: ``modules[1]``.

    Raises:
        UnknownNameError: (a KeyError) for a name that is not registered.
        KeyError: for a field that is unknown or missing.
        ConfigError: for a value that a field can't have, or a spec of another form.
    """
    with at_place(place):
        if isinstance(spec, root):
            return spec
        try:
            name, config = split_spec(spec, root.registry.what)
        except ConfigError as error:
            raise ConfigError(f"{spec!r} cannot be used; it {error}") from None
        if not isinstance(name, str):
            raise ConfigError(f"{spec!r} cannot be used; the name {name!r} should be text")
        return root.from_name(name, config)


def build_components(root: type[C], specs: Any, *, place: str) -> list[C]:
    """Build a list of components; None is the empty list. Errors are as ``build_component``'s."""
    if specs is None:
        return []
    if not isinstance(specs, list | tuple | ComponentList):
        raise ConfigError(f"{place} is {specs!r}; give a list of {root.registry.what}s")
    return [
        build_component(root, spec, place=f"{place}[{index}]") for index, spec in enumerate(specs)
    ]


def component_config(component: Component) -> list[Any]:
    """Return ``[name, {field: value}]`` as plain JSON gives it back: no tuples."""
    return [component.name, as_lists(component.get_config())]


class ComponentList(MutableSequence[C]):
    """A list of components that passes each change to its owner before it is made.

    Args:
        root: their kind.
        specs: its initial components, as for ``build_components``.
        place: its name in error messages.
        refit: receives the new list; if it raises an exception, the list is not changed.
    """

    def __init__(
        self, root: type[C], specs: Any, *, place: str, refit: Callable[[Sequence[C]], None]
    ) -> None:
        self._root, self._place, self._refit = root, place, refit
        self._items = build_components(root, specs, place=place)

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[C]:
        return iter(self._items)

    def __getitem__(self, index: Any) -> Any:
        return self._items[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        many = isinstance(index, slice)
        built = build_components(self._root, list(value) if many else [value], place=self._place)
        self._become(lambda items: items.__setitem__(index, built if many else built[0]))

    def __delitem__(self, index: Any) -> None:
        self._become(lambda items: items.__delitem__(index))

    def insert(self, index: int, value: Any) -> None:
        """Insert a component, as for ``build_component``."""
        built = build_component(self._root, value, place=self._place)
        self._become(lambda items: items.insert(index, built))

    def reverse(self) -> None:
        """Reverse the list in one step: the base class would hold a component twice in between."""
        self[:] = self._items[::-1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, list | ComponentList) and self._items == list(other)

    def __repr__(self) -> str:
        return repr(self._items)

    def _become(self, change: Callable[[list[C]], None]) -> None:
        items = list(self._items)
        change(items)
        self._refit(items)
        self._items = items


@contextmanager
def at_place(place: str) -> Iterator[None]:
    """Put the place in front of an error of the user's input; its type stays."""
    try:
        yield
    except (KeyError, ConfigError) as error:
        error.args = (f"{place}: {error.args[0]}", *error.args[1:])
        raise
