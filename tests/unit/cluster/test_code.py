from __future__ import annotations

import importlib
import importlib.resources
import pkgutil
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest
from ray import cloudpickle

from simfl.cluster.code import install_sources, read_main, read_sources, searched_here
from simfl.component import Component

FILES = {
    "own_rule.py": "from own_parts.deep import FACTOR\n\ndef apply(x):\n    return x * FACTOR\n",
    "own_parts/__init__.py": "",
    "own_parts/deep.py": "FACTOR = 3\n\ndef fail():\n    raise ValueError('own mistake')\n",
    "own_parts/late.py": "NAME = 'late'\n",
    "own_space/inner.py": "# -*- coding: latin-1 -*-\nWORD = 'caf\xe9'\n",
    "own_space/other.py": "WORD = 'tea'\n",
    "never_imported.py": "",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Create importable modules, and remove them afterwards."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="latin-1")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield tmp_path
    _forget()


def _forget() -> None:
    for name in [name for name in sys.modules if name.startswith(("own_", "never_"))]:
        del sys.modules[name]
    importlib.invalidate_caches()


def elsewhere(folder: Path) -> None:
    """Remove the modules and their folder."""
    sources = read_sources([str(folder)])
    _forget()
    for file in folder.rglob("*.py"):
        file.unlink()
    install_sources(sources)


def test_a_module_and_its_imports_are_found_without_their_folder(
    folder: Path,
) -> None:
    importlib.import_module("own_rule")
    elsewhere(folder)
    assert importlib.import_module("own_rule").apply(2) == 6


def test_a_packages_modules_are_sent_before_they_are_imported(folder: Path) -> None:
    importlib.import_module("own_parts")
    elsewhere(folder)
    assert importlib.import_module("own_parts.late").NAME == "late"


def test_namespace_packages_and_encodings_are_supported(folder: Path) -> None:
    importlib.import_module("own_space.inner")
    elsewhere(folder)
    assert importlib.import_module("own_space.inner").WORD == "caf\xe9"


def test_modules_that_were_not_sent_are_found_in_an_existing_folder(folder: Path) -> None:
    importlib.import_module("own_space.inner")
    sources = read_sources([str(folder)])
    _forget()
    install_sources(sources)
    assert importlib.import_module("own_space.other").WORD == "tea"


def test_a_packages_other_files_are_read_from_an_existing_folder(folder: Path) -> None:
    """They are not sent, since a folder may contain data of any size."""
    for package in ("own_parts", "own_space"):
        (folder / package / "table.txt").write_text("12")
    importlib.import_module("own_parts")
    importlib.import_module("own_space.inner")
    sources = read_sources([str(folder)])
    _forget()
    install_sources(sources)
    for package in ("own_parts", "own_space"):
        importlib.import_module(package)
        assert (importlib.resources.files(package) / "table.txt").read_text() == "12"
        with importlib.resources.as_file(importlib.resources.files(package) / "table.txt") as path:
            assert path == folder / package / "table.txt"
        assert pkgutil.get_data(package, "table.txt") == (b"12" if package == "own_parts" else None)
        (folder / package / "table.txt").unlink()
        with pytest.raises(FileNotFoundError, match=r"table\.txt"):
            (importlib.resources.files(package) / "table.txt").read_text()


@dataclass(frozen=True)
class Named(Component, kind="named-of-a-test"):
    """Names something, and has other fields."""

    name: ClassVar[str] = "named"
    path: str = ""
    count: int = 3


def test_objects_of_main_are_sent_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are added to another process's ``__main__``."""
    build = eval("lambda width: FACTOR * width", {"FACTOR": 2, "__name__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "build_net", build, raising=False)
    values = [Named("__main__:build_net"), Named("simfl.seeding:SERVER"), 3, "__main__:other"]
    sent = cloudpickle.dumps(read_main(values))
    script = f"""
        import pickle, sys
        from simfl.cluster.code import install_main
        from simfl.plugins import import_object
        install_main(pickle.loads({sent!r}))
        assert import_object("__main__:build_net")(3) == 6
        assert not hasattr(sys.modules["__main__"], "SERVER")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, cwd="/")


def test_a_linked_module_is_sent_and_one_that_cannot_be_read_is_not(folder: Path) -> None:
    (folder / "own_link.py").symlink_to(folder / "own_parts" / "late.py")
    (folder / "own_parts" / "old.py").write_bytes(b"NAME = '\xe9'\n")
    importlib.import_module("own_link")
    importlib.import_module("own_parts")
    sources = read_sources([str(folder)])
    assert sources["own_link"].text == FILES["own_parts/late.py"]
    assert "own_parts.old" not in sources


def test_a_traceback_shows_lines_of_modules_that_were_sent(folder: Path) -> None:
    importlib.import_module("own_parts.deep")
    elsewhere(folder)
    with pytest.raises(ValueError, match="own mistake") as caught:
        importlib.import_module("own_parts.deep").fail()
    assert "raise ValueError('own mistake')" in "".join(traceback.format_exception(caught.value))


def test_modules_that_were_sent_take_precedence_on_a_node(folder: Path) -> None:
    importlib.import_module("own_parts")
    sources = read_sources([str(folder)])
    (folder / "own_parts" / "deep.py").write_text("FACTOR = 4\n")
    _forget()
    install_sources(sources)
    assert importlib.import_module("own_parts.deep").FACTOR == 3


def test_only_modules_imported_directly_from_the_folders_are_read(folder: Path) -> None:
    importlib.import_module("own_rule")
    assert set(read_sources([str(folder)])) == {
        "own_rule", "own_parts", "own_parts.deep", "own_parts.late",
    }  # fmt: skip
    assert read_sources([str(folder.parent)]) == {}


def test_installed_packages_are_not_sent() -> None:
    assert read_sources([str(Path(pytest.__file__).parents[1])]) == {}


def test_modules_without_a_file_are_left_alone(folder: Path) -> None:
    sys.modules["own_made"] = ModuleType("own_made")
    assert read_sources([str(folder)]) == {}


def test_a_process_without_the_folders_runs_the_modules_that_were_sent(folder: Path) -> None:
    importlib.import_module("own_rule")
    sources = read_sources([str(folder)])
    script = f"""
        import pickle
        from simfl.cluster.code import ModuleSource, install_sources
        install_sources({sources!r})
        import own_rule
        assert own_rule.__file__.endswith("own_rule.py")
        assert pickle.loads(pickle.dumps(own_rule.apply))(2) == 6
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, cwd="/")


def test_the_current_folder_is_sent_only_if_it_is_on_the_module_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Workers do not search it; they are sent what the driver imported from it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/elsewhere"])
    assert searched_here() == []
    for entry in ("", str(tmp_path)):
        monkeypatch.setattr(sys, "path", ["/elsewhere", entry])
        assert searched_here() == [str(tmp_path)]
