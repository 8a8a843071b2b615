"""Examples that a Python function returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from simfl.data.arrays import source_data_from_arrays, with_our_dtypes
from simfl.data.dataset import Examples, FederatedDataset
from simfl.data.source import Source, SourceData
from simfl.errors import ConfigError, DataError
from simfl.plugins import import_object, path_of


@dataclass(frozen=True)
class PythonFunction(Source):
    """The examples that a function of yours returns.

    It returns a ``SourceData``, ``Examples``, a pair (inputs, targets), or a dict of arrays with
    the names of the ``npz`` source. If it has a parameter ``seed`` that ``arguments`` does
    not set, it gets the run's seed. Inputs may be a dict of arrays by name.
    """

    name: ClassVar[str] = "python"
    runs_code: ClassVar[bool] = True

    path: str
    """The function, as package.module:function."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Its keyword arguments."""

    def load(self, *, seed: int) -> SourceData:
        """Call the function.

        Raises:
            ImportPathError: if there is no such function.
            ConfigError: if it is not callable, or not with these arguments.
            DataError: if it returns anything else. Exceptions of the function propagate.
        """
        function = import_object(self.path)
        arguments = _bound(function, {**self.arguments}, seed=seed, path=self.path)
        return _as_source_data(function(**arguments), origin=f"{self.path}()")


@dataclass(frozen=True)
class GivenData(PythonFunction):
    """Examples that were given as objects in Python."""

    @classmethod
    def of(cls, given: Any) -> GivenData:
        """Return the source of (inputs, targets), (inputs, targets, clients) or the like.

        Args:
            given: or a ``SourceData``, ``Examples``, a dict of arrays, a data set of torch whose
                items are (input, target), or a whole ``FederatedDataset``.
        """
        made = cls(path_of(given))
        object.__setattr__(made, "_given", given)
        return made

    @property
    def names_clients(self) -> bool:
        """Whether the examples say whose they are."""
        given = vars(self)["_given"]
        columns = getattr(given, "columns", given if isinstance(given, Mapping) else ())
        return "client" in columns or (isinstance(given, tuple) and len(given) == 3)

    def whole(self) -> FederatedDataset | None:
        """Return the data set, if it was given split over clients."""
        given = vars(self)["_given"]
        return given if isinstance(given, FederatedDataset) else None

    def load(self, *, seed: int) -> SourceData:
        """Return the examples; errors are as for a function that returns them."""
        given = vars(self)["_given"]
        if isinstance(given, tuple) and len(given) == 3:
            given = SourceData(Examples(given[0], given[1]), columns={"client": given[2]})
        elif not isinstance(given, tuple | Mapping | Examples | SourceData) and _is_items(given):
            inputs, targets = zip(*given, strict=True)
            given = (np.stack([*map(np.asarray, inputs)]), np.asarray(targets))
        return _as_source_data(given, origin="data")


def _is_items(given: Any) -> bool:
    return hasattr(given, "__getitem__") and hasattr(given, "__len__")


def _bound(
    function: Callable[..., Any], arguments: dict[str, Any], *, seed: int, path: str
) -> dict[str, Any]:
    if not callable(function):
        raise ConfigError(f"python: path is {path!r}, which is not a function but {function!r}")
    signature = inspect.signature(function)
    if "seed" in signature.parameters:
        arguments.setdefault("seed", seed)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ConfigError(f"python: {path}{signature} cannot be called: {error}") from None
    return arguments


def _as_source_data(value: Any, *, origin: str) -> SourceData:
    if isinstance(value, Mapping):
        return source_data_from_arrays(value, origin=origin)
    if isinstance(value, tuple) and len(value) == 2:
        value = Examples(value[0], value[1])
    if isinstance(value, Examples):
        value = SourceData(value)
    if not isinstance(value, SourceData):
        raise DataError(
            f"{origin} returned {_described(value)}; it must return SourceData, Examples, "
            "(inputs, targets), or a dict with 'inputs' and 'targets'"
        )
    return with_our_dtypes(value, origin=origin)


def _described(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return f"a {type(value).__name__}"
