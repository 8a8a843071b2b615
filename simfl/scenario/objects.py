"""Objects of Python in place of what a scenario names: model, loss, data, algorithm, aggregator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict

from simfl.aggregation import Aggregator
from simfl.algorithms import Algorithm
from simfl.component import Component, Section
from simfl.data import Source
from simfl.data.sources.python_function import GivenData, PythonFunction
from simfl.errors import ImportPathError, InputError
from simfl.models import Loss, ModelSpec, PythonLoss, PythonModel
from simfl.models.losses import GivenLoss
from simfl.models.spec import GivenModel
from simfl.plugins import GIVEN, has_path, import_object, path_of
from simfl.scenario.components import component_kinds
from simfl.scenario.document import Document
from simfl.scenario.fields import keys_of
from simfl.sections import DataSection, ModelSection

if TYPE_CHECKING:
    from simfl.scenario.schema import Scenario


class Objects(TypedDict, total=False):
    """What may be given as an object."""

    model: Any
    """A module of torch, a class or function that makes one, or a ``ModelSpec``."""
    loss: Loss | Callable[..., Any]
    """A ``Loss``, a module of torch, or a function of outputs and targets."""
    data: Any
    """(inputs, targets), (inputs, targets, clients' ids), a ``Dataset`` of torch, ``Examples``,
    ``SourceData``, a function that returns one of these, or a ``FederatedDataset``."""
    algorithm: Algorithm
    """An algorithm."""
    aggregator: Aggregator
    """What ``server.aggregator`` names."""


def put_objects(document: Document, objects: Objects) -> Document:
    """Return the document with components in place of what it says.

    A new source or model leaves the section's other keys as they are, but not the previous one's
    fields. Data that say whose they are have no partition.

    Raises:
        InputError: for an object of another name.
    """
    for name in objects.keys() - Objects.__annotations__.keys():
        raise InputError(
            f"there is no argument {name!r}: objects are {', '.join(Objects.__annotations__)}; "
            "change keys of a scenario by simfl.load_scenario(scenario, overrides=['rounds=5'])"
        )
    values = dict(document.values)
    if "model" in objects:
        values["model"] = _without_fields(values, ModelSection) | {"kind": _model(objects["model"])}
    if "loss" in objects:
        values["model"] = {**values.get("model", {}), "loss": _loss(objects["loss"])}
    if "data" in objects:
        source = _source(objects["data"])
        kept = {} if source.whole() else _without_fields(values, DataSection)
        named = isinstance(source, GivenData) and source.names_clients
        values["data"] = kept | {"source": source} | ({"partition": None} if named else {})
    if "algorithm" in objects:
        values["algorithm"] = objects["algorithm"]
    if "aggregator" in objects:
        values["server"] = {**values.get("server", {}), "aggregator": objects["aggregator"]}
    return replace(document, values=values)


def _without_fields(values: Mapping[Any, Any], section: type[Section]) -> dict[Any, Any]:
    """Return a section's own keys, without those of the component whose fields are keys, too."""
    given = values.get("model" if section is ModelSection else "data")
    known = keys_of(section)
    return {key: value for key, value in (given or {}).items() if key in known and key != "source"}


def _model(given: Any) -> ModelSpec:
    if isinstance(given, ModelSpec):
        return given
    return PythonModel(path_of(given)) if has_path(given) else GivenModel.of(given)


def _loss(given: Any) -> Loss:
    if isinstance(given, Loss):
        return given
    return PythonLoss(path_of(given)) if has_path(given) else GivenLoss.of(given)


def _source(given: Any) -> Source:
    if isinstance(given, Source):
        return given
    is_function = callable(given) and has_path(given)
    return PythonFunction(path_of(given)) if is_function else GivenData.of(given)


def list_own(scenario: Scenario) -> list[list[str]]:
    """Return the kind and the name of what a notebook or script defines, or has given.

    The scenario's file alone does not have them: classes of ``__main__`` by name, functions of it
    by path, and objects as ``<given>:name``.
    """
    found = []
    for component in _components(scenario):
        kind, path = component.registry.what, component.get_config().get("path")
        if isinstance(path, str) and path.startswith(("__main__:", f"{GIVEN}:")):
            found.append([kind, path])
        elif type(component).__module__ == "__main__":
            found.append([kind, component.name])
    return found


def own_objects(scenario: Scenario) -> dict[str, Any]:
    """Return the classes and functions of ``list_own`` that are in ``__main__``, by name.

    Another process has a different ``__main__``, so they have to be sent to it.
    """
    found: dict[str, Any] = {}
    for component in _components(scenario):
        path = component.get_config().get("path")
        if isinstance(path, str) and path.startswith("__main__:"):
            found[path.partition(":")[2]] = import_object(path)
        if type(component).__module__ == "__main__":
            found[type(component).__qualname__] = type(component)
    return found


def find_missing(own: Iterable[Sequence[str]], objects: Objects) -> list[str]:
    """Return what of ``list_own`` this process does not have, in words.

    Args:
        own: pairs of kind and name.
        objects: those that are given, which need not be found.
    """
    given = {{"data": "source"}.get(key, key) for key in objects}
    kinds = component_kinds()
    return [
        f"{kind} {name.removeprefix('__main__:')!r}"
        for kind, name in own
        if kind not in given and not _is_here(kinds, kind, name)
    ]


def _is_here(kinds: Mapping[str, type[Component]], kind: str, name: str) -> bool:
    if ":" not in name:
        return kind in kinds and name in kinds[kind].registry
    try:
        return import_object(name) is not None
    except ImportPathError:
        return False


def _components(value: Any) -> Iterator[Component]:
    if isinstance(value, Component):
        yield value
    if isinstance(value, Component | Section):
        values = value.get_config() if isinstance(value, Component) else vars(value)
        value = [item for name, item in values.items() if not name.startswith("_")]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _components(item)
