"""Code that is imported by name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from simfl import load_scenario
from simfl.component import Component
from simfl.errors import ImportPathError, UnknownNameError
from simfl.optimizer import OptiModule
from simfl.plugins import import_installed, import_object, import_plugins


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
    (tmp_path / "script_of_test.py").write_text("raise SystemExit('usage')")
    with pytest.raises(ImportPathError, match=r"'script_of_test' \(SystemExit: usage"):
        import_plugins(["script_of_test"], search=[str(tmp_path)])


# -- plug-ins of installed packages --------------------------------------------------------

WAGON = """
from dataclasses import dataclass
from typing import ClassVar
from simfl.optimizer import OptiModule

@dataclass(frozen=True)
class Installed(OptiModule):
    name: ClassVar[str] = "installed-of-test"

    def update(self, gradients, state, context):
        return gradients, state
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch) -> Iterator[Callable[..., None]]:
    """Return a function that installs a package with one module, as pip would."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
    monkeypatch.setattr(OptiModule.registry, "_classes", dict(OptiModule.registry._classes))

    def add(package: str, text: str) -> None:
        info = site / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[simfl.plugins]\n{package} = {package}_of_test\n")
        (site / f"{package}_of_test.py").write_text(text)
        monkeypatch.delitem(sys.modules, f"{package}_of_test", raising=False)

    import_installed.cache_clear()
    yield add
    import_installed.cache_clear()


def test_a_component_of_an_installed_package_is_found_by_its_name(install) -> None:
    install("wagon", WAGON)
    assert OptiModule.from_name("installed-of-test").get_config() == {}


def test_installed_plugins_are_imported_only_when_a_name_is_unknown(install) -> None:
    install("wagon", WAGON)
    OptiModule.from_name("momentum")
    assert "wagon_of_test" not in sys.modules
    assert "installed-of-test" in OptiModule.registry
    assert "wagon_of_test" in sys.modules


def test_an_unknown_name_is_an_error_with_a_hint_that_knows_installed_plugins(install) -> None:
    install("wagon", WAGON)
    with pytest.raises(UnknownNameError, match="Did you mean 'installed-of-test'"):
        OptiModule.from_name("instaled-of-test")


def test_an_installed_plugin_that_fails_to_import_is_one_line_with_the_package(install) -> None:
    install("broken", "1 /\\\n 0")
    expected = (
        "no module named 'installed-of-test', and plug-in 'broken' of package 'broken' cannot "
        "import 'broken_of_test' (ZeroDivisionError: division by zero); update or uninstall the "
        "package"
    )
    with pytest.raises(ImportPathError) as caught:
        OptiModule.from_name("installed-of-test")
    assert str(caught.value) == expected


@pytest.mark.parametrize("text", ["1 / 0", "raise SystemExit(1)"])
def test_a_broken_package_does_not_hide_the_components_of_others(install, text: str) -> None:
    install("broken", text)
    install("wagon", WAGON)
    assert "installed-of-test" in OptiModule.registry
    assert OptiModule.from_name("momentum").name == "momentum"


def test_an_untrusted_scenario_may_name_the_components_of_an_installed_package(install) -> None:
    install("wagon", WAGON)
    scenario = {
        "rounds": 1,
        "data": {"source": "digits", "partition": {"kind": "iid", "clients": 4}},
        "model": {"kind": "logistic"},
        "client": {"optimizer": {"lrate": 0.1, "modules": ["installed-of-test"]}},
    }
    loaded = load_scenario(scenario, trust="none")
    assert [module.name for module in loaded.client.optimizer.modules] == ["installed-of-test"]
