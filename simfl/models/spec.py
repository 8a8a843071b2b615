"""ModelSpec: a module described in a scenario, built to fit the shape of the data."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
import torch
from torch import nn

from simfl.component import Component
from simfl.errors import ConfigError, DataError
from simfl.models.per_example import IGNORED
from simfl.plugins import import_object, path_of
from simfl.seeding import derive_seed, global_generators
from simfl.vector import Vector

Axes: TypeAlias = "tuple[int, ...]"
"""The shape of one example, without the example's axis."""

Array: TypeAlias = "np.ndarray[Any, Any] | Sequences"


class _Vocabulary(Protocol):
    @property
    def size(self) -> int: ...


class Sequences(Protocol):
    """What stands for an array of tokens [N, L]: ``simfl.data.Ragged``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, the most positions of a sequence)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """int64."""

    @property
    def vocabulary(self) -> _Vocabulary:
        """Its ``size`` is above all tokens."""

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class DataShape:
    """The shapes of one example, and the number of distinct integers it may hold."""

    inputs: Axes | tuple[Axes, ...] | dict[str, Axes]
    """The input's axes; those of each input, by position or by name, if there are several."""
    target_shape: Axes = ()
    """The target's axes; () is one number per example."""
    num_classes: int | None = None
    """The largest target + 1 if targets are integers, otherwise None."""
    vocabulary: int | None = None
    """The largest input + 1, over all integer inputs; None if there are none."""

    @property
    def single_input(self) -> Axes | None:
        """The input's axes, or None if there are several inputs."""
        if isinstance(self.inputs, dict):
            return None
        axes = tuple(size for size in self.inputs if isinstance(size, int))
        return axes if len(axes) == len(self.inputs) else None


def data_shape(
    inputs: Array | tuple[Array, ...] | Mapping[str, Array],
    targets: Array,
    *,
    is_scaled: bool = False,
) -> DataShape:
    """Return the shape of the data.

    Args:
        inputs: [N, ...] arrays of N >= 1 examples: a single one, or several by position or by
            name.
        targets: [N, ...] classes if integers or booleans, otherwise the numbers to predict.
        is_scaled: whether inputs are scaled to floats for the model.

    Raises:
        DataError: if there is no example, or a class or token is negative; targets of several
            positions may be -100, those that do not count.

    >>> data_shape(np.zeros((5, 1, 28, 28), np.float32), np.array([0, 9, 3, 1, 1])).num_classes
    10
    """
    if len(targets) == 0:
        raise DataError("the data hold no example, so a model cannot be fitted to their shape")
    return DataShape(
        inputs=_axes(inputs),
        target_shape=targets.shape[1:],
        num_classes=_num_symbols("targets", targets),
        vocabulary=None if is_scaled else _vocabulary(inputs),
    )


def _axes(
    inputs: Array | tuple[Array, ...] | Mapping[str, Array],
) -> Axes | tuple[Axes, ...] | dict[str, Axes]:
    if isinstance(inputs, Mapping):
        return {name: array.shape[1:] for name, array in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(array.shape[1:] for array in inputs)
    axes: Axes = inputs.shape[1:]
    return axes


def _vocabulary(inputs: Array | tuple[Array, ...] | Mapping[str, Array]) -> int | None:
    if isinstance(inputs, Mapping):
        inputs = tuple(inputs.values())
    arrays = inputs if isinstance(inputs, tuple) else (inputs,)
    integers = [array for array in arrays if array.dtype.kind in "iu"]
    return max((_num_symbols("inputs", array) or 0 for array in integers), default=None)


def _num_symbols(what: str, array: Array) -> int | None:
    vocabulary = getattr(array, "vocabulary", None)
    if vocabulary is not None:
        return int(vocabulary.size)
    dense = np.asarray(array)
    if dense.dtype.kind == "b":
        return 2
    if dense.dtype.kind not in "iu":
        return None
    if what == "targets" and dense.ndim > 1:
        dense = dense[dense != IGNORED]
    if dense.size == 0:
        return 0
    if (smallest := int(dense.min())) < 0:
        raise DataError(
            f"{what} hold the integer {smallest}; classes and tokens count from 0, "
            "and numbers that are neither must be floats"
        )
    return int(dense.max()) + 1


class ModelSpec(Component, kind="model"):
    """A scenario's model; its input and output sizes come from the data."""

    @property
    def is_drawn(self) -> bool:
        """Whether other seeds may give other initial weights."""
        return True

    def build(self, shape: DataShape) -> nn.Module:
        """Build the module with random weights from torch's global generator, which is seeded.

        Args:
            shape: the shape of the data that the module is trained on.

        Raises:
            ConfigError: if the model cannot take such data.
        """
        raise NotImplementedError(f"{type(self).__name__} has no build()")

    def build_empty(self, shape: DataShape) -> nn.Module | None:
        """Build the same module without values: its weights and buffers are on the meta device.

        None, the default: it is always built in full.
        """
        return None

    def files(
        self, weights: Vector, shape: DataShape, *, seed: int, fixed: Mapping[str, str]
    ) -> dict[str, bytes]:
        """Return files for other libraries, which a run writes into its folder; by default none.

        Args:
            weights: the final ones, as in ``weights.safetensors``.
            shape: of the data.
            seed: the run's.
            fixed: the digests of the weights that never change, by name.
        """
        return {}


def build_module(spec: ModelSpec, shape: DataShape, *, seed: int) -> nn.Module:
    """Build a module with a run's initial weights; torch's generator is left unchanged."""
    with global_generators():
        torch.manual_seed(derive_seed(seed, "initial weights"))
        return spec.build(shape)


@dataclass(frozen=True)
class PythonModel(ModelSpec):
    """A function of yours, or a class, that returns a ``torch.nn.Module``.

    The weights of the returned module, such as pre-trained ones, are kept.
    """

    name: ClassVar[str] = "python"
    runs_code: ClassVar[bool] = True

    path: str
    """Its import path: package.module:function."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Its arguments, by name."""

    def build(self, shape: DataShape) -> nn.Module:
        """Call the function.

        Raises:
            ImportPathError: if it cannot be imported.
            ConfigError: if it raises, or does not return a module.
        """
        function = self._object()
        if not callable(function):
            raise ConfigError(f"model python: {self.path!r} is not a function, but {function!r}")
        try:
            module = function(**self.arguments)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise ConfigError(
                f"model python: {self.path!r} called with {self.arguments} raised {what}"
            ) from error
        if not isinstance(module, nn.Module):
            raise ConfigError(
                f"model python: {self.path!r} returned {type(module).__name__}; "
                "it must return a torch.nn.Module"
            )
        return module

    def _object(self) -> Any:
        return import_object(self.path)


@dataclass(frozen=True)
class GivenModel(PythonModel):
    """A module that was given as an object in Python, or a function or class that makes one.

    The initial weights are the module's own.
    """

    @classmethod
    def of(cls, given: Any) -> GivenModel:
        """Return the model of an object."""
        made = cls(path_of(given))
        object.__setattr__(made, "_given", given)
        return made

    @property
    def is_drawn(self) -> bool:
        """Whether it is not a module, whose weights are what they are."""
        return not isinstance(vars(self)["_given"], nn.Module)

    def _object(self) -> Any:
        given: Any = vars(self)["_given"]
        if not callable(given):
            return given
        # A copy, since a function may return the same module each time.
        return lambda: copy.deepcopy(given if isinstance(given, nn.Module) else given())


def num_features(model: str, shape: DataShape) -> int:
    """Return the number of values of an example's input.

    Raises:
        ConfigError: if there are several inputs, or they are integers.
    """
    axes = _single_input(model, shape)
    _require_floats(model, shape)
    if not axes:
        raise ConfigError(
            f"model {model}: each input is a single number without an axis; reshape the inputs "
            "to [examples, 1]"
        )
    return math.prod(axes)


def image_axes(model: str, shape: DataShape, *, smallest: int = 1) -> tuple[int, int, int]:
    """Return (channels, height, width); images of two axes have one channel.

    Raises:
        ConfigError: if inputs are not images, or smaller than ``smallest`` in height or width.
    """
    axes = _single_input(model, shape)
    _require_floats(model, shape)
    if len(axes) not in (2, 3):
        raise ConfigError(
            f"model {model}: inputs have shape {list(axes)}, but it takes images of shape "
            "[channels, height, width]; reshape them, or use mlp"
        )
    if len(axes) == 3 and axes[2] in (1, 3, 4) and axes[0] > 4:
        raise ConfigError(
            f"model {model}: inputs of shape {list(axes)} have their channels last; "
            "transpose them to [channels, height, width]"
        )
    channels, height, width = axes if len(axes) == 3 else (1, *axes)
    if min(height, width) < smallest:
        raise ConfigError(
            f"model {model}: images are {height}x{width}, but it needs {smallest}x{smallest} "
            "at least; use resnet or mlp"
        )
    return channels, height, width


def num_outputs(model: str, shape: DataShape, outputs: int | None = None) -> int:
    """Return the number of outputs of the module for an example.

    Args:
        model: its name, for the error.
        shape: of the data.
        outputs: the scenario's number; None is one per class, or per number of the target.

    Raises:
        ConfigError: if a target is more than a class or a row of numbers.
    """
    if outputs is not None:
        return outputs
    if shape.num_classes is not None and shape.target_shape == ():
        return shape.num_classes
    if shape.num_classes is None and len(shape.target_shape) <= 1:
        return math.prod(shape.target_shape)
    kind = "numbers" if shape.num_classes is None else "integers"
    raise ConfigError(
        f"model {model}: each target is {list(shape.target_shape)} {kind}, but it predicts one "
        "class or one row of numbers; use kind: python with a module of yours"
    )


def _single_input(model: str, shape: DataShape) -> tuple[int, ...]:
    if shape.single_input is None:
        if isinstance(shape.inputs, dict) and "categories" in shape.inputs:
            raise ConfigError(
                f"model {model}: inputs are categories by index; use kind: table-mlp, or set "
                "data.categories: one-hot"
            )
        raise ConfigError(
            f"model {model}: examples have {len(shape.inputs)} inputs, but it takes one; "
            "use kind: python with a module that takes them all"
        )
    return shape.single_input


def _require_floats(model: str, shape: DataShape) -> None:
    if shape.vocabulary is not None:
        raise ConfigError(
            f"model {model}: inputs are integers below {shape.vocabulary}, but it takes floats; "
            "set data.divide_by, to 255 for images, or use a model of tokens such as char-lstm"
        )
