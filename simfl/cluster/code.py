"""The user's own modules, sent to actors as source, so that nodes need not see their folders.

Modules that the driver imported from the folders of ``search`` take precedence in an actor over
others of the same name, so that all actors run the driver's code.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.readers import FileReader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from simfl.component import Component
from simfl.plugins import import_object

_OURS = __name__.partition(".")[0]


@dataclass(frozen=True)
class ModuleSource:
    """A module, as text."""

    path: str
    """Its file on the driver, for tracebacks."""
    text: str
    is_package: bool


def read_sources(search: Iterable[str]) -> dict[str, ModuleSource]:
    """Return the modules that were imported from these folders, by name.

    All modules of a package are returned, whether imported or not; but no other files, no compiled
    modules, and no installed packages.
    """
    installed = {Path(folder).resolve() for folder in sysconfig.get_paths().values()}
    folders = [where for folder in search if (where := Path(folder).resolve()) not in installed]
    found: dict[str, ModuleSource] = {}
    modules = list(sys.modules.items())
    tops = {name.partition(".")[0] for name, _ in modules} - {_OURS}
    sent = {top for top in tops if _is_from(folders, top)}
    for name, module in modules:
        top = name.partition(".")[0]
        if top in sent and (path := _file(module)) is not None:
            found |= _read_package(name, path) if name == top else {name: _read(path)}
    return found


def searched_here() -> list[str]:
    """Return the current folder if it is on this process's ``sys.path``, as in a notebook."""
    here = os.getcwd()
    return [here] if {"", here} & set(sys.path) else []


def read_main(values: Iterable[object]) -> dict[str, Any]:
    """Return the objects in ``__main__`` that components name, such as ``__main__:build_net``.

    ``__main__`` is a notebook or the script that was started. Its objects have to be sent by value,
    since an actor has a different ``__main__``.
    """
    components = [value for value in values if isinstance(value, Component)]
    fields = [field for component in components for field in component.get_config().values()]
    paths = [path for path in fields if isinstance(path, str) and path.startswith("__main__:")]
    return {path.partition(":")[2]: import_object(path) for path in paths}


def install_main(objects: Mapping[str, Any]) -> None:
    """Add these objects to this process's ``__main__``."""
    vars(sys.modules["__main__"]).update(objects)


def install_sources(sources: Mapping[str, ModuleSource]) -> None:
    """Make this process import these modules from their text."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
    if sources:
        sys.meta_path.insert(0, _Finder(sources))


def _is_from(folders: Sequence[Path], top: str) -> bool:
    """Return whether a top-level module or package is directly in one of the folders."""
    module = sys.modules.get(top)
    if (path := _file(module)) is not None:
        home = path.parent.parent if path.name == "__init__.py" else path.parent
        return home.resolve() in folders
    places = getattr(module, "__path__", [])
    return any(Path(place).resolve().parent in folders for place in places)


def _file(module: ModuleType | None) -> Path | None:
    """Return the file of a module, if it was imported from a Python file."""
    spec: Any = getattr(module, "__spec__", None)
    origin = str(getattr(spec, "origin", None))
    if not getattr(spec, "has_location", False) or not origin.endswith(".py"):
        return None
    path = Path(origin).absolute()
    return path if path.is_file() else None


def _read_package(name: str, path: Path) -> dict[str, ModuleSource]:
    """Read a module, and all modules in it if it is a package."""
    found = {name: _read(path)}
    for file in path.parent.rglob("*.py") if path.name == "__init__.py" else ():
        with suppress(OSError, SyntaxError, UnicodeDecodeError):  # it was not imported
            found[_name(file, name, path.parent)] = _read(file)
    return found


def _name(file: Path, package: str, folder: Path) -> str:
    parts = file.relative_to(folder).with_suffix("").parts
    return ".".join([package, *(part for part in parts if part != "__init__")])


def _read(path: Path) -> ModuleSource:
    text = importlib.util.decode_source(path.read_bytes())
    return ModuleSource(str(path), text, is_package=path.name == "__init__.py")


def _folders_of_packages(sources: Mapping[str, ModuleSource]) -> dict[str, str]:
    """Return the folder of each package that is sent as a whole or in part."""
    folders: dict[str, str] = {}
    for name, source in sources.items():
        folder = Path(source.path).parent
        package = name if source.is_package else name.rpartition(".")[0]
        while package:
            folders[package], folder = str(folder), folder.parent
            package = package.rpartition(".")[0]
    return folders


class _Finder(MetaPathFinder, InspectLoader):
    """Finds modules in a mapping, and loads them from it."""

    def __init__(self, sources: Mapping[str, ModuleSource]) -> None:
        self._sources = sources
        self._folders = _folders_of_packages(sources)

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        source = self._sources.get(fullname)
        # If the package's folder exists on this node, modules that were not sent are found in it.
        inner = [self._folders[fullname]] if fullname in self._folders else None
        if source is not None:
            return importlib.util.spec_from_file_location(
                fullname, source.path, loader=self, submodule_search_locations=inner
            )
        if inner is None:
            return None
        # A folder without __init__.py is a namespace package, which has no text.
        spec = ModuleSpec(fullname, self, is_package=True)
        spec.submodule_search_locations = inner
        return spec

    def get_source(self, fullname: str) -> str:
        return self._sources[fullname].text if fullname in self._sources else ""

    def get_code(self, fullname: str) -> CodeType:
        path = self._sources[fullname].path if fullname in self._sources else f"<{fullname}>"
        return self.source_to_code(self.get_source(fullname), path)

    def is_package(self, fullname: str) -> bool:
        return fullname not in self._sources or self._sources[fullname].is_package

    def get_data(self, path: str) -> bytes:
        """Return a package's file, for ``pkgutil.get_data``, if its folder exists on this node."""
        return Path(path).read_bytes()

    def get_resource_reader(self, fullname: str) -> FileReader | None:
        """Return the reader with which ``importlib.resources`` reads a package's other files.

        They are not sent, and only found if the package's folder exists on this node.
        """
        if fullname not in self._folders:
            return None
        return FileReader(SourceFileLoader(fullname, f"{self._folders[fullname]}/__init__.py"))
