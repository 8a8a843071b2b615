"""The weights of a torch module: which it may have, reading, writing and updating them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from simfl.errors import ConfigError, VectorError
from simfl.models.held_state import HeldState
from simfl.models.model import Model, difference
from simfl.models.model_function import find_layer
from simfl.models.parameter_memory import ParameterMemory
from simfl.vector import Vector, widened

_TRAINABLE: Final = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_INTEGERS: Final = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
_STORED: Final = (*_TRAINABLE, *_INTEGERS, torch.complex64)
"""The dtypes that ``weights.safetensors`` and checkpoints can store."""


class ModuleWeights(Model):
    """The part of a model that holds a module's weights.

    Args:
        module: used without copying it.
        fixed: the names of weights and persistent buffers that never change, and that are not part
            of the model's weights; see ``simfl.models.names.fix``.

    Raises:
        ConfigError: if the module has no trained parameter, or a layer that cannot be trained.
    """

    def __init__(self, module: nn.Module, *, fixed: Collection[str] = ()) -> None:
        self.module = module
        self._fixed = frozenset(fixed)
        _require_dense(module)
        self._read_parameters()

    def _read_parameters(self) -> None:
        everything = _named_tensors(self.module)
        state = {name: value for name, value in everything.items() if name not in self._fixed}
        buffers = {
            name: value for name, value in state.items() if not isinstance(value, nn.Parameter)
        }
        self._trainable: dict[str, nn.Parameter] = {
            name: value
            for name, value in state.items()
            if isinstance(value, nn.Parameter) and value.requires_grad
        }
        if not self._trainable:
            raise ConfigError(
                f"{type(self.module).__name__} has no parameter to train; "
                "set requires_grad of one at least"
            )
        _require_dtypes(state, self._trainable)
        self._parameters: list[Tensor] = list(self._trainable.values())
        averaged = [name for name, value in buffers.items() if not value.is_complex()]
        self._shared_names = (*self._trainable, *averaged)
        self._held = HeldState(self.module, everything)
        self._memory = ParameterMemory(self.module, self._trainable)
        self._known_state = None if buffers else state

    def _state(self) -> dict[str, Tensor]:
        """Return parameters and persistent buffers; not cached if modules may rebind buffers."""
        if self._known_state is not None:
            return self._known_state
        state = _named_tensors(self.module)
        return {name: state[name] for name in state if name not in self._fixed}

    @property
    def shared_names(self) -> tuple[str, ...]:
        """The trainable parameters, then the persistent buffers that are averaged.

        Frozen parameters and complex buffers are excluded.
        """
        return self._shared_names

    @property
    def fixed_weights(self) -> Vector:
        """The weights and buffers that never change, not copied."""
        state = _named_tensors(self.module)
        return Vector({n: t.detach() for n, t in state.items() if n in self._fixed})

    @property
    def is_half(self) -> bool:
        """Whether any trained parameter is float16 or bfloat16."""
        return any(widened(parameter) is not parameter for parameter in self._parameters)

    @property
    def trainable(self) -> Mapping[str, nn.Parameter]:
        """The trained parameters by name, not copied."""
        return self._trainable

    def get_weights(self, trainable: bool = False) -> Vector:
        """Return a copy of parameters and persistent buffers, in the order of ``state_dict``.

        Args:
            trainable: only the trained parameters.
        """
        tensors = self._trainable if trainable else self._state()
        return Vector({name: tensor.detach().clone() for name, tensor in tensors.items()})

    def live_weights(self, names: Iterable[str] | None = None) -> Vector:
        """Return some weights, or all, not copied: later steps change them."""
        tensors = self._state()
        chosen = tensors if names is None else names
        return Vector({name: tensors[name].detach() for name in chosen})

    def names_in(self, layers: Iterable[str]) -> tuple[str, ...]:
        """Return the names of the weights and buffers in some layers.

        Raises:
            ConfigError: if the module has no such layer.
        """
        prefixes = []
        for layer in layers:
            find_layer(self.module, layer)
            prefixes.append(f"{layer}.")
        return tuple(name for name in self._state() if name.startswith(tuple(prefixes)))

    def set_weights(self, weights: Vector, trainable: bool = False) -> None:
        """Copy the weights into the module's own memory.

        If all weights are given, the module's other state is reset, too.

        Raises:
            VectorError: unless names and shapes are those of ``get_weights(trainable)``; nothing
                is changed in this case.
        """
        tensors = self._trainable if trainable else self._state()
        _require_fit("weights", weights, tensors)
        self._memory.restore()
        _copy(weights, tensors)
        if not trainable:
            self._held.restore()

    def holds(self, weights: Vector) -> bool:
        """Return whether these are still the weights, after calls that should not change any."""
        return self._memory.is_left_alone or all(
            torch.equal(_rounded(weights[name], tensor).to(tensor.dtype), tensor)
            for name, tensor in self._state().items()
        )

    def start_from(self, weights: Vector) -> None:
        """Set all weights for a training, which leaves the given ones as they are.

        It does what ``set_weights`` does, but trained parameters read the given weights in place
        until the first step if the module is known not to write to them. ``compute_delta``,
        ``set_weights`` or ``end_training`` end that.

        Raises:
            VectorError: as ``set_weights``.
        """
        tensors = self._state()
        _require_fit("weights", weights, tensors)
        lent = self._memory.lend(weights)
        _copy(weights, {name: tensor for name, tensor in tensors.items() if name not in lent})
        self._held.restore()

    def end_training(self) -> None:
        """Let go of all memory that is not the parameters' own; their values are undefined then."""
        self._memory.restore()

    @property
    def held(self) -> HeldState:
        """The module's state besides its weights, which is reset for each client."""
        return self._held

    def apply_updates(self, updates: Vector) -> None:
        """Add the updates to the trainable weights, in place.

        Raises:
            VectorError: unless names and shapes are those of the trainable weights.
        """
        self.apply_scaled_updates(updates, 1.0)

    def apply_scaled_updates(self, updates: Vector, scale: float) -> None:
        """Add scale times the updates to the trainable weights, in one pass with one rounding.

        Raises:
            VectorError: unless names and shapes are those of the trainable weights.
        """
        self._step(updates, scale, take=False)

    def take_scaled_updates(self, updates: Vector, scale: float) -> None:
        """Add updates as ``apply_scaled_updates`` does; nothing may use their memory afterwards."""
        self._step(updates, scale, take=True)

    def _step(self, updates: Vector, scale: float, *, take: bool) -> None:
        _require_fit("updates", updates, self._trainable)
        with torch.no_grad():
            self._memory.step(updates, scale, take=take)

    def compute_delta(self, start: Vector, *, into: Vector | None = None) -> Vector:
        """Return start minus the weights of ``shared_names``, in the type of ``difference``.

        It ends a training that has begun with ``start_from``.

        Args:
            start: all weights before training.
            into: a previous delta whose memory is reused: fresh memory costs more than the numbers.
        """
        tensors = self._state()
        reused: Mapping[str, Tensor] = {**dict(into.items() if into else ()), **self._memory.taken}
        deltas = {}
        with torch.no_grad():
            for name in self._shared_names:
                if name in self._trainable:
                    a, b = widened(start[name]), widened(tensors[name])
                    deltas[name] = torch.sub(a, b, out=reused.get(name))
                else:
                    deltas[name] = difference(start[name], tensors[name])
        self._memory.restore()
        return Vector(deltas)

    @property
    def needs_memory(self) -> bool:
        """Whether ``compute_delta`` has no memory at hand for all trained weights."""
        return len(self._memory.taken) < len(self._trainable)

    @property
    def device(self) -> torch.device:
        """The device of the weights; batches must be on it, too."""
        return self._parameters[0].device


def _require_dense(module: nn.Module) -> None:
    """Raise an error for layers that cannot be trained.

    Raises:
        ConfigError: for sparse gradients, and for parameters that have no shape yet.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag) and layer.sparse:
            raise ConfigError(f"layer {name!r} has sparse gradients; create it with sparse=False")
    for name, parameter in module.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise ConfigError(f"{name!r} has no shape yet; call the module with a batch first")


def _require_dtypes(state: Mapping[str, Tensor], trainable: Mapping[str, Tensor]) -> None:
    """Raise an error for weights and buffers that cannot be trained, averaged or stored.

    Raises:
        ConfigError: naming the tensor and its type.
    """
    for name, tensor in state.items():
        if name in trainable and tensor.dtype not in _TRAINABLE:
            hint = (
                "; store its real and imaginary parts as two tensors" if tensor.is_complex() else ""
            )
            raise ConfigError(
                f"{name!r} is {tensor.dtype}, but trained weights must be float32, float64, "
                f"bfloat16 or float16{hint}"
            )
        if tensor.dtype not in _STORED:
            kinds = ", ".join(str(dtype).removeprefix("torch.") for dtype in _STORED)
            raise ConfigError(
                f"{name!r} is {tensor.dtype}, but weights and buffers must be {kinds}"
            )


def _named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers, each once, in the order of ``state_dict``."""
    seen: set[int] = set()
    state = {}
    for name, value in module.state_dict(keep_vars=True).items():
        if isinstance(value, Tensor) and id(value) not in seen:
            seen.add(id(value))
            state[name] = value
    return state


def _require_fit(what: str, vector: Vector, tensors: Mapping[str, Tensor]) -> None:
    """Raise an error unless a vector has the names and shapes of these tensors.

    Raises:
        VectorError: naming the first difference.
    """
    known = {name: tensor.shape for name, tensor in tensors.items()}
    given = {name: tensor.shape for name, tensor in vector.items()}
    if given == known:
        return
    if given.keys() != known.keys():
        missing = sorted(known.keys() - given.keys())
        unknown = sorted(given.keys() - known.keys())
        raise VectorError(f"{what} are not the model's: missing {missing}, unknown {unknown}")
    name = next(name for name in known if given[name] != known[name])
    raise VectorError(
        f"{what}: {name!r} has shape {list(given[name])}, the model's is {list(known[name])}"
    )


def _copy(weights: Vector, tensors: Mapping[str, Tensor]) -> None:
    if not tensors:  # which torch refuses
        return
    with torch.no_grad():
        values = [_rounded(weights[name], tensor) for name, tensor in tensors.items()]
        torch._foreach_copy_(list(tensors.values()), values)


def _rounded(value: Tensor, like: Tensor) -> Tensor:
    # Averaged counts, such as num_batches_tracked, come back as floats a rounding error off.
    if value.is_floating_point() and not like.is_floating_point():
        return value.round()
    return value
