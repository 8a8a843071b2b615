"""Examples that a Python function returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from simfl.data.arrays import source_data_from_arrays, with_our_dtypes
from simfl.data.dataset import Examples
from simfl.data.source import Source, SourceData
from simfl.errors import ConfigError, DataError
from simfl.plugins import import_object


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
