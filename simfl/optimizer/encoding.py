"""States to and from JSON, bit for bit, and checked against the plug-ins they belong to.

A tensor becomes ``{"tensor": [dtype, shape, data]}`` and a Vector ``{"vector": [[name, dtype,
shape, data], ...], "stacked": bool}``, data being the little-endian memory in base 64. Numbers are
not converted to text, so NaN, infinities, -0.0 and denormals are restored exactly.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeAlias

import torch
from torch import Tensor

from simfl.optimizer.plugin import OptiModule, Regularizer, State
from simfl.states import OptimizerState, tensor_from, view_bytes
from simfl.vector import Vector

PlugIns: TypeAlias = "Sequence[OptiModule | Regularizer]"


def encode_optimizer_state(
    state: OptimizerState,
    *,
    modules: Sequence[OptiModule],
    regularizers: Sequence[Regularizer],
) -> dict[str, Any]:
    """Return the state as JSON values: counts as they are, and ``[name, state]`` per plug-in.

    Its digest covers all of them.
    """
    encoded = {
        **vars(state),
        "modules": _encode_all(modules, state.modules),
        "regularizers": _encode_all(regularizers, state.regularizers),
        "variables": {
            "modules": [sorted(one) for one in state.modules],
            "regularizers": [sorted(one) for one in state.regularizers],
        },
    }
    return {**encoded, "digest": _digest(encoded)}


def decode_optimizer_state(
    encoded: Mapping[str, Any],
    *,
    modules: Sequence[OptiModule],
    regularizers: Sequence[Regularizer],
) -> OptimizerState:
    """Return the state that ``encode_optimizer_state`` was given, on the CPU.

    Raises:
        KeyError: if an entry is missing, unknown, damaged, or not as it was saved, or if the
            plug-ins are others.
    """
    if not isinstance(encoded, Mapping):
        raise KeyError(f"optimizer state: is a {type(encoded).__name__}, not a dict")
    counts = {field.name for field in fields(OptimizerState)} - {"modules", "regularizers"}
    names = counts | {"modules", "regularizers", "variables", "digest"}
    if encoded.keys() != names:
        different = sorted(map(str, encoded.keys() ^ names))
        raise KeyError(f"optimizer state: entries {different} are missing or unknown")
    for name in sorted(counts):
        if type(encoded[name]) is not int:
            raise KeyError(f"optimizer state: {name} is {encoded[name]!r}, not an integer")
        if name in ("round", "step", "num_steps") and encoded[name] < 0:
            raise KeyError(f"optimizer state: {name} is {encoded[name]}, which is negative")
    state = OptimizerState(
        **{name: encoded[name] for name in counts},
        modules=_decode_all(modules, encoded, "modules"),
        regularizers=_decode_all(regularizers, encoded, "regularizers"),
    )
    try:
        digest = _digest({name: encoded[name] for name in names - {"digest"}})
    except (TypeError, ValueError):  # not JSON, so not as it was saved
        digest = None
    if digest is None or encoded["digest"] != digest:
        raise KeyError("optimizer state: is damaged: its digest does not match its contents")
    return state


def encode_state(state: State) -> dict[str, Any]:
    """Return the state as JSON values.

    >>> encode_state({"steps": torch.tensor(1)})
    {'steps': {'tensor': ['int64', [], 'AQAAAAAAAAA=']}}
    """
    return {key: _encode(leaf) for key, leaf in state.items()}


def decode_state(encoded: Mapping[str, Any]) -> State:
    """Return the state that ``encode_state`` was given, on the CPU.

    Raises:
        KeyError: if an entry is neither a tensor nor a Vector, or damaged.
    """
    return {key: _decode(leaf, key) for key, leaf in encoded.items()}


def _digest(encoded: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(encoded, sort_keys=True).encode()).hexdigest()


def _encode_all(plugins: PlugIns, states: Sequence[State]) -> list[Any]:
    pairs = zip(plugins, states, strict=True)
    return [[plugin.name, encode_state(state)] for plugin, state in pairs]


def _decode_all(plugins: PlugIns, encoded: Mapping[str, Any], place: str) -> tuple[State, ...]:
    try:
        names = [name for name, _ in encoded[place]]
        states = [dict(state) for _, state in encoded[place]]
        variables = [set(keys) for keys in encoded["variables"][place]]
    except (LookupError, TypeError, ValueError) as error:
        raise KeyError(f"{place}: the states are damaged: {error}") from None
    expected = [plugin.name for plugin in plugins]
    if names != expected or len(variables) != len(expected):
        raise KeyError(f"{place}: the states are those of {names}, but the plug-ins are {expected}")
    for index, (name, state, known) in enumerate(zip(names, states, variables, strict=True)):
        where = f"{place}[{index}]: state of {name!r}"
        if missing := sorted(known - state.keys()):
            raise KeyError(f"{where} is missing {missing}")
        if unknown := sorted(state.keys() - known):
            raise KeyError(f"{where} has {unknown}, which were not saved with it")
    return tuple(map(decode_state, states))


def _encode(leaf: Vector | Tensor) -> dict[str, Any]:
    if isinstance(leaf, Tensor):
        return {"tensor": _encode_tensor(leaf)}
    tensors = [[name, *_encode_tensor(tensor)] for name, tensor in leaf.items()]
    return {"vector": tensors, "stacked": leaf.stacked}


def _decode(encoded: Any, key: str) -> Vector | Tensor:
    match encoded:
        case {"tensor": [dtype, shape, data], **rest} if not rest:
            described = [("", dtype, shape, data)]
        case {"vector": list(described), "stacked": bool(), **rest} if not rest:
            pass
        case _:
            raise KeyError(f"state {key!r} is neither a tensor nor a Vector")
    try:
        tensors = {n: _decode_tensor(dtype, shape, data) for n, dtype, shape, data in described}
        return Vector(tensors, stacked=encoded["stacked"]) if "vector" in encoded else tensors[""]
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise KeyError(f"state {key!r} is damaged: {error}") from None


def _encode_tensor(tensor: Tensor) -> list[Any]:
    memory = view_bytes(tensor.detach().cpu().contiguous()).numpy().tobytes()
    data = base64.b64encode(memory).decode("ascii")
    return [str(tensor.dtype).removeprefix("torch."), list(tensor.shape), data]


def _decode_tensor(dtype: str, shape: list[int], data: str) -> Tensor:
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise ValueError(f"there is no dtype {dtype!r}")
    memory = bytearray(base64.b64decode(data, validate=True))
    if min(shape, default=0) < 0 or len(memory) != kind.itemsize * math.prod(shape):
        raise ValueError(f"{len(memory)} bytes do not match {dtype} with shape {shape}")
    return tensor_from(memory, kind, shape)
