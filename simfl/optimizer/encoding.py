"""Raw states to and from JSON, bit for bit, and checked against the plug-ins they are for.

A tensor becomes ``{"tensor": [dtype, shape, data]}`` and a Vector ``{"vector": [[name, dtype,
shape, data], ...], "stacked": bool}``, data being the little-endian memory in base 64. Text is not
used for numbers, so NaN, infinities, -0.0 and denormals come back as they were.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from simfl.optimizer.plugin import OptiModule, Regularizer, State
from simfl.optimizer.state import OptimizerState
from simfl.vector import Vector

__all__ = [
    "decode_optimizer_state",
    "decode_state",
    "encode_optimizer_state",
    "encode_state",
]

PlugIns: TypeAlias = "Sequence[OptiModule | Regularizer]"


def encode_optimizer_state(
    state: OptimizerState,
    *,
    modules: Sequence[OptiModule],
    regularizers: Sequence[Regularizer],
) -> dict[str, Any]:
    """Return the state as JSON values: counts as they are, and ``[name, state]`` per plug-in."""
    counts = {field.name: getattr(state, field.name) for field in fields(state)}
    return {
        **counts,
        "modules": _encode_all(modules, state.modules),
        "regularizers": _encode_all(regularizers, state.regularizers),
    }


def decode_optimizer_state(
    encoded: Mapping[str, Any],
    *,
    modules: Sequence[OptiModule],
    regularizers: Sequence[Regularizer],
) -> OptimizerState:
    """Return the state that ``encode_optimizer_state`` was given, on the CPU.

    Raises:
        KeyError: if entries are missing or unknown, or the plug-ins are others than those that
            the state was taken from.
    """
    names = {field.name for field in fields(OptimizerState)}
    if encoded.keys() != names:
        different = sorted(encoded.keys() ^ names)
        raise KeyError(f"optimizer state: entries {different} are missing or unknown")
    state = OptimizerState(**encoded)
    is_started = state.step > 0
    return replace(
        state,
        modules=_decode_all(modules, state.modules, "modules", is_started),
        regularizers=_decode_all(regularizers, state.regularizers, "regularizers", is_started),
    )


def encode_state(state: State) -> dict[str, Any]:
    """Return the state as JSON values.

    >>> encode_state({"steps": torch.tensor(1)})
    {'steps': {'tensor': ['int64', [], 'AQAAAAAAAAA=']}}
    """
    return {key: _encode(leaf) for key, leaf in state.items()}


def decode_state(encoded: Mapping[str, Any]) -> State:
    """Return the state that ``encode_state`` was given, on the CPU.

    Raises:
        KeyError: if an entry is neither a tensor nor a Vector.
    """
    return {key: _decode(leaf, key) for key, leaf in encoded.items()}


def _encode_all(plugins: PlugIns, states: Sequence[State]) -> list[Any]:
    pairs = zip(plugins, states, strict=True)
    return [[plugin.name, encode_state(state)] for plugin, state in pairs]


def _decode_all(
    plugins: PlugIns, encoded: Sequence[Any], place: str, is_started: bool
) -> tuple[State, ...]:
    names, expected = [name for name, _ in encoded], [plugin.name for plugin in plugins]
    if names != expected:
        raise KeyError(f"{place}: the states are those of {names}, but the plug-ins are {expected}")
    states = tuple(decode_state(state) for _, state in encoded)
    for index, (plugin, state) in enumerate(zip(plugins, states, strict=True)):
        missing = _entries(plugin) - state.keys()
        if is_started and missing:
            raise KeyError(f"{place}[{index}]: state of {plugin.name!r} lacks {sorted(missing)}")
    return states


def _entries(plugin: OptiModule | Regularizer) -> set[str]:
    """Return the entries that a state has from the first step on."""
    return set(plugin.init(Vector({"any": torch.zeros(1)})))


def _encode(leaf: Vector | Tensor) -> dict[str, Any]:
    if isinstance(leaf, Tensor):
        return {"tensor": _encode_tensor(leaf)}
    tensors = [[name, *_encode_tensor(tensor)] for name, tensor in leaf.items()]
    return {"vector": tensors, "stacked": leaf.stacked}


def _decode(encoded: Mapping[str, Any], key: str) -> Vector | Tensor:
    if "tensor" in encoded:
        return _decode_tensor(*encoded["tensor"])
    if "vector" not in encoded:
        raise KeyError(f"state {key!r} is neither a tensor nor a Vector")
    tensors = {name: _decode_tensor(*described) for name, *described in encoded["vector"]}
    return Vector(tensors, stacked=encoded["stacked"])


def _encode_tensor(tensor: Tensor) -> list[Any]:
    # A single number counts as contiguous with any stride, and then cannot be viewed as bytes.
    flat = tensor.detach().cpu().contiguous().as_strided((tensor.numel(),), (1,))
    data = base64.b64encode(flat.view(torch.uint8).numpy().tobytes()).decode("ascii")
    return [str(tensor.dtype).removeprefix("torch."), list(tensor.shape), data]


def _decode_tensor(dtype: str, shape: list[int], data: str) -> Tensor:
    if not math.prod(shape):
        return torch.empty(shape, dtype=getattr(torch, dtype))
    flat = torch.frombuffer(bytearray(base64.b64decode(data)), dtype=torch.uint8)
    return flat.view(getattr(torch, dtype)).reshape(shape)
