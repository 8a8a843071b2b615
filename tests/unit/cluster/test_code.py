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
    """Make modules that are importable, and forgotten afterwards."""
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
    """Forget the modules, and take away what they were imported from."""
    sources = read_sources([str(folder)])
    _forget()
    for file in folder.rglob("*.py"):
        file.unlink()
    install_sources(sources)


def test_a_module_and_what_it_imports_are_found_where_their_folder_is_not_there(
    folder: Path,
) -> None:
    importlib.import_module("own_rule")
    elsewhere(folder)
    assert importlib.import_module("own_rule").apply(2) == 6


def test_a_packages_modules_come_along_before_they_are_imported(folder: Path) -> None:
    importlib.import_module("own_parts")
    elsewhere(folder)
    assert importlib.import_module("own_parts.late").NAME == "late"


def test_a_folder_without_init_is_a_package_too_and_encodings_are_kept(folder: Path) -> None:
    importlib.import_module("own_space.inner")
    elsewhere(folder)
    assert importlib.import_module("own_space.inner").WORD == "caf\xe9"


def test_what_was_not_sent_is_found_in_its_folder_where_that_is_there(folder: Path) -> None:
    importlib.import_module("own_space.inner")
    sources = read_sources([str(folder)])
    _forget()
    install_sources(sources)
    assert importlib.import_module("own_space.other").WORD == "tea"


def test_a_packages_other_files_are_read_where_its_folder_is_there(folder: Path) -> None:
    """They are not sent: a folder may hold data of any size."""
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


def test_what_is_named_in_main_travels_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process's ``__main__`` has it then."""
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


def test_a_traceback_shows_the_lines_that_are_not_there(folder: Path) -> None:
    importlib.import_module("own_parts.deep")
    elsewhere(folder)
    with pytest.raises(ValueError, match="own mistake") as caught:
        importlib.import_module("own_parts.deep").fail()
    assert "raise ValueError('own mistake')" in "".join(traceback.format_exception(caught.value))


def test_what_was_sent_comes_before_what_a_node_has_under_that_name(folder: Path) -> None:
    importlib.import_module("own_parts")
    sources = read_sources([str(folder)])
    (folder / "own_parts" / "deep.py").write_text("FACTOR = 4\n")
    _forget()
    install_sources(sources)
    assert importlib.import_module("own_parts.deep").FACTOR == 3


def test_only_what_was_imported_from_right_below_the_folders_is_read(folder: Path) -> None:
    importlib.import_module("own_rule")
    assert set(read_sources([str(folder)])) == {
        "own_rule", "own_parts", "own_parts.deep", "own_parts.late",
    }  # fmt: skip
    assert read_sources([str(folder.parent)]) == {}


def test_what_is_installed_is_not_sent() -> None:
    assert read_sources([str(Path(pytest.__file__).parents[1])]) == {}


def test_modules_without_a_file_are_left_alone(folder: Path) -> None:
    sys.modules["own_made"] = ModuleType("own_made")
    assert read_sources([str(folder)]) == {}


def test_a_process_that_has_none_of_the_folders_runs_what_it_was_sent(folder: Path) -> None:
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


def test_the_current_folder_counts_only_where_this_process_looks_for_modules(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Workers do not look there, and are sent what the driver has imported from there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/elsewhere"])
    assert searched_here() == []
    for entry in ("", str(tmp_path)):
        monkeypatch.setattr(sys, "path", ["/elsewhere", entry])
        assert searched_here() == [str(tmp_path)]
