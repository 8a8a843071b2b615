"""Code that simfl imports by name: objects, modules of plug-ins, installed packages' plug-ins."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from simfl.errors import ImportPathError, did_you_mean, one_line

__all__ = ["GIVEN", "has_path", "import_installed", "import_object", "import_plugins", "path_of"]

_GROUP: Final = "simfl.plugins"
"""The group of entry points under which an installed package declares modules with components."""


GIVEN: Final = "<given>"
"""In place of a module: of objects that have no import path."""


def path_of(given: object) -> str:
    """Return the path by which ``import_object`` finds a class or function, such as a notebook's.

    Other objects get ``<given>:name``, which says what they are.

    >>> path_of(path_of), path_of([].append), path_of(3)
    ('simfl.plugins:path_of', '<given>:list.append', '<given>:int')
    """
    name = getattr(given, "__qualname__", type(given).__name__)
    return f"{given.__module__ if has_path(given) else GIVEN}:{name}"


def has_path(given: object) -> bool:
    """Return whether an object is a class or function that can be imported by its name."""
    module, name = getattr(given, "__module__", None), getattr(given, "__qualname__", None)
    return bool(name) and getattr(sys.modules.get(str(module)), str(name), None) is given


def import_object(path: str) -> Any:
    """Import ``package.module:name``.

    Raises:
        ImportPathError: saying which part of the path is wrong.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ImportPathError(f"{path!r} is not of the form 'package.module:name'")
    if module_name == GIVEN:
        raise ImportPathError(
            f"{name!r} is an object that was given in Python; give it again, for example by "
            "simfl.resume(folder, model=...)"
        )
    module = _import_module(module_name)
    if not hasattr(module, name):
        hint = did_you_mean(name, [known for known in vars(module) if not known.startswith("_")])
        raise ImportPathError(f"{path!r}: module {module_name!r} has no {name!r}. {hint}".rstrip())
    return getattr(module, name)


def import_plugins(modules: Iterable[str], *, search: Iterable[str] = ()) -> None:
    """Import modules, which register their components as they are imported.

    Args:
        modules: dotted names.
        search: folders to search before the usual places, the first one first.

    Raises:
        ImportPathError: naming the module and the error that its import raised.
    """
    for folder in reversed([folder for folder in search if folder not in sys.path]):
        sys.path.insert(0, folder)
    for module in modules:
        _import_module(module)


@cache
def import_installed() -> tuple[str, ...]:
    """Import the plug-ins of installed packages, once per process: their ``simfl.plugins``.

    Returns:
        A message for each plug-in that cannot be imported. The others are registered.
    """
    faults = [_fault_of(entry) for entry in entry_points(group=_GROUP)]
    return tuple(fault for fault in faults if fault)


def _fault_of(entry: EntryPoint) -> str | None:
    try:
        entry.load()
    except (Exception, SystemExit) as error:  # a script that calls sys.exit is no plug-in
        package = f" of package {entry.dist.name!r}" if entry.dist else ""
        what = one_line(f"{type(error).__name__}: {error}")
        return (
            f"plug-in {entry.name!r}{package} cannot import {entry.value!r} ({what}); "
            "update or uninstall the package"
        )
    return None


def _import_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a script that calls sys.exit is no plug-in
        what = f"{type(error).__name__}: {error}"
        raise ImportPathError(f"cannot import module {name!r} ({what})") from error
