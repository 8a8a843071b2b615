"""Fixed weights of a model, its base: built once, and read in place by all models and processes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from simfl.models.held_state import HeldState
from simfl.models.module_weights import ModuleWeights
from simfl.models.spec import DataShape, ModelSpec, build_module
from simfl.seeding import global_generators
from simfl.vector import Vector, tensors_of

LEAST_BASE_BYTES: Final = 1 << 22
"""Fixed weights of fewer bytes are left to each model."""


@dataclass(frozen=True)
class InitialState:
    """What a module holds when it has been built, from which the same module is built again.

    Neither is anything drawn or read from files then, nor is the base copied.
    """

    base: Vector
    """The fixed parameters, on memory that may be read-only."""
    rest: Vector | None = None
    """The other parameters and persistent buffers. None: the module is built in full each time, and
    then uses the base in place of its own."""
    held: Mapping[str, Any] = field(default_factory=dict)
    """What holds tensors besides, such as non-persistent buffers, by name."""

    def for_other_processes(self) -> InitialState | None:
        """Return what other processes cannot have for nothing.

        Parameters in files that are mapped, as safetensors are by transformers, are shared by the
        system, and so processes build such a module themselves. None: the others are too small.
        """
        mapped = _mapped_from_files()
        own = self.base.select(name for name, value in self.base.items() if not mapped.holds(value))
        if own.num_bytes < LEAST_BASE_BYTES:
            return None
        return self if len(own) == len(self.base) else InitialState(own)


def initial_state(model: ModuleWeights, spec: ModelSpec, shape: DataShape) -> InitialState | None:
    """Return the state of a model that has just been built; None if its base is small.

    Args:
        model: whose base is used in place, and not copied.
        spec: describes it.
        shape: of the data.
    """
    parameters = dict(model.module.named_parameters())
    fixed = model.fixed_weights
    base = fixed.select(name for name in fixed if name in parameters)
    if base.num_bytes < LEAST_BASE_BYTES:
        return None
    buffers = fixed.without(parameters).clone()
    whole = InitialState(base, model.get_weights() | buffers, model.held.tensors())
    is_enough = _filled(spec, shape, whole) is not None
    return whole if is_enough else replace(whole, rest=None)


def build_again(
    spec: ModelSpec, shape: DataShape, *, seed: int, initial: InitialState | None
) -> nn.Module:
    """Build a module with a run's initial weights, from its initial state if it is known."""
    module = None if initial is None else _filled(spec, shape, initial)
    if module is not None:
        return module
    module = build_module(spec, shape, seed=seed)
    if initial is not None:
        borrow(module, initial.base)
    return module


def borrow(module: nn.Module, base: Vector) -> None:
    """Let parameters of a module be these tensors, whose memory may be read-only.

    Args:
        module: has such parameters, whose own memory is released.
        base: values that are only read, by name.
    """
    for name, value in base.items():
        parameter = module.get_parameter(name)
        assert parameter.shape == value.shape, name
        parameter.requires_grad_(False).data = value


def _filled(spec: ModelSpec, shape: DataShape, initial: InitialState) -> nn.Module | None:
    """Return a module with a state; None if that is not all that the module consists of."""
    if initial.rest is None:
        return None
    with global_generators():
        module = spec.build_empty(shape)
    if module is None:
        return None
    state: dict[str, Tensor] = {}
    made: dict[int, Tensor] = {}  # tensors with two names remain one
    for name, empty in module.state_dict(keep_vars=True).items():
        if id(empty) not in made:
            if name in initial.base:
                made[id(empty)] = nn.Parameter(initial.base[name], requires_grad=False)
            elif name in initial.rest:
                value = initial.rest[name].clone()
                is_parameter, trains = isinstance(empty, nn.Parameter), empty.requires_grad
                made[id(empty)] = nn.Parameter(value, trains) if is_parameter else value
            else:
                return None
        state[name] = made[id(empty)]
    module.load_state_dict(state, assign=True)
    HeldState(module, state).fill(initial.held)
    return module if _has_all_values(module, state) else None


def _has_all_values(module: nn.Module, state: Mapping[str, Tensor]) -> bool:
    besides = tensors_of(HeldState(module, state).tensors())
    tensors = (*module.parameters(), *module.buffers(), *besides)
    return not any(tensor.is_meta for tensor in tensors)


class _Mapped:
    """The addresses at which files are mapped into this process."""

    def __init__(self, ranges: list[tuple[int, int]]) -> None:
        self._ranges = sorted(ranges)

    def holds(self, tensor: Tensor) -> bool:
        address = tensor.data_ptr()
        index = bisect_right(self._ranges, (address, 1 << 63)) - 1
        return index >= 0 and address < self._ranges[index][1]


def _mapped_from_files() -> _Mapped:
    """Read Linux's table; elsewhere nothing is known to be mapped."""
    ranges = []
    with suppress(OSError):
        for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
            addresses, _, _, _, inode, *path = line.split(maxsplit=5)
            if inode != "0" and path:
                begin, _, end = addresses.partition("-")
                ranges.append((int(begin, 16), int(end, 16)))
    return _Mapped(ranges)
