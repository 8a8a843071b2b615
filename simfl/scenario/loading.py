"""Load a Scenario from a file or a mapping."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from simfl.component import as_lists
from simfl.errors import ImportPathError, ScenarioError, did_you_mean
from simfl.plugins import import_plugins
from simfl.scenario.checks import check_combinations
from simfl.scenario.document import Document, Place, fault_at, require_values, show
from simfl.scenario.faults import scenario_error
from simfl.scenario.fields import read_section
from simfl.scenario.objects import Objects, put_objects
from simfl.scenario.overrides import apply_overrides
from simfl.scenario.reading import read_document
from simfl.scenario.schema import Origin, Scenario
from simfl.scenario.validators import Trust, refusal
from simfl.shipped import shipped_scenarios


def load_scenario(
    path_or_mapping: str | os.PathLike[str] | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    trust: Trust = "all",
    objects: Objects | None = None,
) -> Scenario:
    """Read a scenario and run every check that needs no data.

    Args:
        path_or_mapping: a YAML file, the name of a shipped scenario, or plain data.
        overrides: ``key.path=value`` each, the value in YAML, applied in order.
        trust: ``none`` refuses a scenario that names its author's code: ``plugins``, or a
            ``python`` source, model or loss. Nothing is imported then, and ``search`` is ignored.
        objects: what replaces what the scenario names, of the caller's own.

    Raises:
        ScenarioError: with a line for each fault: file, line, key, value and remedy.
    """
    document, folders = read(path_or_mapping, overrides=overrides, trust=trust)
    document = put_objects(document, objects or {})
    import_plugins_of(document)
    return validated(document, folders, trust=trust)


def read(
    path_or_mapping: str | os.PathLike[str] | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    trust: Trust = "all",
) -> tuple[Document, tuple[Path, ...]]:
    """Read a scenario without checking it; return it with the folders searched for its files.

    Raises:
        ScenarioError: if it cannot be read, an override's path does not exist, or it names
            untrusted plug-ins.
    """
    if isinstance(path_or_mapping, Mapping):
        document, folders = Document(as_lists(path_or_mapping)), [Path.cwd()]
    else:
        path = find_scenario(Path(path_or_mapping))
        document, folders = read_document(path), [path.resolve().parent, Path.cwd()]
    document = apply_overrides(document, overrides)
    require_values(document)
    searched = _without_code(document) if trust == "none" else _with_search(document, folders)
    return searched, tuple(dict.fromkeys(folders))


def _without_code(document: Document) -> Document:
    """Refuse plug-ins, and clear their search path: a module there could shadow others.

    Other components that run code are refused by the schema, with its other faults.
    """
    named = document.values.get("plugins")
    if isinstance(named, list) and named:
        lines = [
            document.fault_line(("plugins", index), refusal(f"is {show(module)}"))
            for index, module in enumerate(named)
        ]
        raise ScenarioError(lines)
    return replace(document, values=document.values | {"search": []})


def _with_search(document: Document, folders: Sequence[Path]) -> Document:
    """Make the plug-in search path explicit: the scenario's, or the default folders."""
    given = document.values.get("search")
    if given and not _is_texts(given):
        return document  # the schema reports it
    search = [folders[0] / folder for folder in given or folders]
    absolute = [str(folder) for folder in dict.fromkeys(search)]
    return replace(document, values=document.values | {"search": absolute})


def _is_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def validated(document: Document, folders: tuple[Path, ...], *, trust: Trust) -> Scenario:
    """Validate a document whose plug-ins are already imported.

    Raises:
        ScenarioError: with a line for each fault.
    """
    context = {"folders": folders, "trust": trust}
    try:
        scenario = read_section(Scenario, document.values, context=context)
    except ValidationError as error:
        raise scenario_error(error, document, schema=Scenario) from None
    scenario = replace(scenario, _origin=Origin(document, trust))
    check_combinations(scenario)
    return scenario


def import_plugins_of(document: Document) -> None:
    """Import the plug-ins, so that their components are registered before names are checked."""
    named, search = document.values.get("plugins"), document.values["search"]
    modules = named if isinstance(named, list | tuple) else []
    import_plugins((), search=search if _is_texts(search) else ())
    for index, module in enumerate(modules):
        if not isinstance(module, str) or not module:
            continue  # the schema reports it
        try:
            import_plugins((module,))
        except ImportPathError as error:
            raise ScenarioError([document.fault_line(("plugins", index), str(error))]) from None


def find_scenario(name: str | Path) -> Path:
    """Return the file of that name, or else the shipped scenario of that name.

    Args:
        name: a path, or a shipped scenario's as ``quickstart`` or ``configs/quickstart.yaml``.

    Raises:
        ScenarioError: if neither exists; the message suggests the nearest name, or lists all.
    """
    path = Path(name)
    if os.path.exists(path):  # also False for an invalid file name
        return path
    shipped = shipped_scenarios()
    if path.stem in shipped and path.suffix in ("", ".yaml", ".yml"):
        return shipped[path.stem]
    hint = did_you_mean(path.stem, shipped)
    known = f" Shipped with simfl: {', '.join(shipped)}." if hint.startswith("Did") else ""
    reason = f"no such file, and simfl ships no scenario called {path.stem!r}"
    raise ScenarioError([fault_at(Place(str(name)), f"{reason}. {hint}{known}".rstrip())])
