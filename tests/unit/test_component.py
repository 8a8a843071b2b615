"""Components: frozen dataclasses that register, check and describe themselves."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from simfl.component import (
    Component,
    Count,
    NonNegative,
    Positive,
    Share,
    field_types,
    import_object,
    import_plugins,
)
from simfl.errors import ConfigError, ImportPathError, UnknownNameError


class Vehicle(Component, kind="vehicle"):
    """A root with a registry of its own."""


@dataclass(frozen=True)
class Bus(Vehicle):
    name: ClassVar[str] = "bus"
    seats: Count
    load: Share = 0.5
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
    share: Share = 0.0
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
        ("share", 1.1),
        ("share", -0.1),
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
    assert types["load"] == (Share, 0.5)
    assert types["options"][1] == {}


def test_defaults_made_by_a_factory_are_not_shared() -> None:
    Bus(seats=1).options["wifi"] = True
    assert Bus(seats=1).options == {}


# -- imports -------------------------------------------------------------------------------


def test_an_object_is_imported_by_its_path() -> None:
    assert import_object("simfl.component:Component") is Component


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("simfl.component", "is not of the form 'package.module:name'"),
        (":Component", "is not of the form 'package.module:name'"),
        ("simfl.component:Componend", "has no 'Componend'. Did you mean 'Component'?"),
        ("simfl.nowhere:f", "cannot import module 'simfl.nowhere'.*ModuleNotFoundError"),
    ],
)
def test_a_wrong_path_says_which_part_is_wrong(path: str, message: str) -> None:
    with pytest.raises(ImportPathError, match=message):
        import_object(path)


def test_plugins_are_imported_from_the_folders_given(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "plugin_of_test.py").write_text(
        "from dataclasses import dataclass\n"
        "from simfl.component import Component\n"
        "class Boat(Component, kind='boat'): ...\n"
        "@dataclass(frozen=True)\n"
        "class Raft(Boat):\n"
        "    name = 'raft'\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    import_plugins(["plugin_of_test"], search=[str(tmp_path)])
    plugin = sys.modules.pop("plugin_of_test")
    assert plugin.Boat.from_name("raft") == plugin.Raft()


def test_the_first_folder_given_is_searched_first(tmp_path: Path, monkeypatch) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "placed_plugin_of_test.py").write_text(f"place = {folder!r}")
    monkeypatch.setattr(sys, "path", list(sys.path))
    folders = [str(tmp_path / "one"), str(tmp_path / "two")]
    import_plugins(["placed_plugin_of_test"], search=folders)
    assert sys.modules.pop("placed_plugin_of_test").place == "one"


def test_a_plugin_that_fails_to_import_is_named_with_its_error(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "broken_plugin_of_test.py").write_text("1 / 0")
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ImportPathError, match=r"'broken_plugin_of_test' \(ZeroDivisionError"):
        import_plugins(["broken_plugin_of_test"], search=[str(tmp_path)])
