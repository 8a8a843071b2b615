"""Components: frozen dataclasses that register, check and describe themselves."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest

from simfl.component import (
    Component,
    Count,
    Fraction,
    NonNegative,
    Positive,
    Registry,
    field_types,
)
from simfl.errors import ConfigError, UnknownNameError


class Vehicle(Component, kind="vehicle"):
    """A root with its own registry."""


@dataclass(frozen=True)
class Bus(Vehicle):
    name: ClassVar[str] = "bus"
    seats: Count
    load: Fraction = 0.5
    colour: Literal["red", "green"] = "red"
    stops: tuple[int, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        if self.colour == "green" and self.seats > 100:
            raise ConfigError("bus: green ones have 100 seats at most")


@dataclass(frozen=True)
class Bounds(Vehicle):
    name: ClassVar[str] = "bounds"
    positive: Positive = 1.0
    non_negative: NonNegative = 0.0
    fraction: Fraction = 0.0
    count: Count = 1


def test_a_class_that_names_itself_is_in_the_registry_of_its_root() -> None:
    assert Vehicle.registry["bus"] is Bus
    assert Vehicle.from_name("bus", {"seats": 3}) == Bus(seats=3)


def test_an_unknown_name_is_an_error_with_the_nearest_one() -> None:
    with pytest.raises(UnknownNameError, match=r"no vehicle named 'buss'\. Did you mean 'bus'"):
        Vehicle.from_name("buss")


def test_the_config_holds_the_fields_and_builds_the_same_component_again() -> None:
    bus = Bus(seats=3, stops=(1, 2), options={"wifi": True})
    config = {"seats": 3, "load": 0.5, "colour": "red", "stops": (1, 2), "options": {"wifi": True}}
    assert bus.get_config() == config
    assert Bus.from_config(bus.get_config()) == bus


def test_a_field_annotated_as_a_list_stays_one() -> None:
    @dataclass(frozen=True)
    class Route(Vehicle):
        name: ClassVar[str] = "route"
        stops: list[int]

    assert Route(stops=[3, 1]).stops == [3, 1]
    with pytest.raises(ConfigError, match="route: stops is"):
        Route(stops=["a"])  # type: ignore[list-item]


def test_lists_of_yaml_become_tuples() -> None:
    assert Bus(seats=1, stops=[1, 2]).stops == (1, 2)


def test_an_integer_will_do_where_a_float_is_asked_for() -> None:
    assert Bus(seats=1, load=1).load == 1.0


@pytest.mark.parametrize(
    ("field_name", "value"),
    [
        ("positive", 0.0),
        ("non_negative", -0.1),
        ("fraction", 1.1),
        ("fraction", -0.1),
        ("count", 0),
        ("count", 1.5),
        ("count", "3"),
        ("count", True),
        ("positive", float("nan")),
    ],
)
def test_values_out_of_bounds_or_of_another_type_are_errors(field_name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"bounds: {field_name} is {value!r}: "):
        Bounds(**{field_name: value})


def test_fields_are_checked_together_by_check() -> None:
    with pytest.raises(ConfigError, match="green ones have 100 seats at most"):
        Bus(seats=101, colour="green")


def test_an_entry_that_is_no_field_is_an_error_with_a_hint() -> None:
    with pytest.raises(
        KeyError, match=r"bus: unused config entries \['seat'\]. Did you mean 'seats'"
    ):
        Bus.from_config({"seat": 3})


def test_a_missing_field_without_default_is_an_error() -> None:
    with pytest.raises(KeyError, match=r"bus: missing config entries \['seats'\]"):
        Bus.from_config({})


def test_components_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Bus(seats=3).seats = 4  # type: ignore[misc]


def test_a_component_that_is_not_frozen_is_refused() -> None:
    @dataclass
    class Loose(Vehicle):
        seats: int = 1

    with pytest.raises(ConfigError, match=r"Loose must be a @dataclass\(frozen=True\)"):
        Loose()


def test_field_types_hold_annotations_with_bounds_and_defaults() -> None:
    types = field_types(Bus)
    assert list(types) == ["seats", "load", "colour", "stops", "options"]
    assert types["seats"] == (Count, ...)
    assert types["load"] == (Fraction, 0.5)
    assert types["options"][1] == {}


def test_defaults_made_by_a_factory_are_not_shared() -> None:
    Bus(seats=1).options["wifi"] = True
    assert Bus(seats=1).options == {}


# -- the registry -------------------------------------------------------------------------


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
