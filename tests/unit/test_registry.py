"""Names for classes."""

from __future__ import annotations

import pytest

from simfl.errors import ConfigError, UnknownNameError
from simfl.registry import Registry


def make(qualname: str) -> type[object]:
    return type(qualname, (), {"__module__": "somewhere", "__qualname__": qualname})


def test_a_class_is_found_by_its_name() -> None:
    registry: Registry[object] = Registry("fruit")
    apple = make("Apple")
    registry.add("apple", apple)
    assert registry["apple"] is apple
    assert "apple" in registry
    assert len(registry) == 1


def test_names_are_listed_in_alphabetical_order() -> None:
    registry: Registry[object] = Registry("fruit")
    for name in ("pear", "apple", "fig"):
        registry.add(name, make(name))
    assert list(registry) == ["apple", "fig", "pear"]


def test_an_unknown_name_suggests_the_nearest_one() -> None:
    registry: Registry[object] = Registry("fruit")
    registry.add("apple", make("Apple"))
    with pytest.raises(UnknownNameError, match=r"no fruit named 'aple'\. Did you mean 'apple'"):
        registry["aple"]
    assert registry.get("aple") is None


def test_two_classes_cannot_have_one_name() -> None:
    registry: Registry[object] = Registry("fruit")
    registry.add("apple", make("Apple"))
    with pytest.raises(ConfigError, match=r"somewhere.Apple and somewhere.Other; give the second"):
        registry.add("apple", make("Other"))


def test_the_same_class_defined_again_replaces_the_former() -> None:
    """As when the cell of a notebook is run twice."""
    registry: Registry[object] = Registry("fruit")
    registry.add("apple", make("Apple"))
    again = make("Apple")
    registry.add("apple", again)
    assert registry["apple"] is again
