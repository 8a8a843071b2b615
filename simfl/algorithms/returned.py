"""Checks of what the two halves of an algorithm return, with errors that name the algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from simfl.algorithms.algorithm import Algorithm, ServerSide, Total, Update
from simfl.errors import AggregationError, ConfigError, SimflError, one_line, own_line
from simfl.states import State
from simfl.vector import Keyed, Vector


def require_update(algorithm: Algorithm, returned: Any) -> tuple[Update, State]:
    """Return what ``Algorithm.client`` has returned.

    Raises:
        ConfigError: if it is not an Update and a state, or a state although there is no ``init``.
    """
    if (wrong := _types(returned, Update, Mapping)) is not None:
        raise ConfigError(
            f"algorithm {algorithm.name!r}: client() returns {wrong}; it must return an Update, "
            "and a dict of what the client keeps"
        )
    update, kept = returned
    if kept and not algorithm.keeps_state:
        raise ConfigError(
            f"algorithm {algorithm.name!r} keeps {sorted(kept)} of a client, but has no init(), "
            "which returns the same entries for a client's first round"
        )
    return update, kept


def require_delta(algorithm: Algorithm, delta: Any, weights: Vector, *, stacked: bool) -> Vector:
    """Return a delta that has some of the names of one client's weights, and their shapes.

    Raises:
        ConfigError: if it has not.
    """
    where = f"algorithm {algorithm.name!r} sends"
    if not isinstance(delta, Vector) or not delta:
        what = "no name" if isinstance(delta, Vector) else f"type {type(delta).__name__}"
        raise ConfigError(f"{where} a delta of {what}; it must be a Vector, or None")
    unknown = [name for name in delta if name not in weights]
    if unknown:
        raise ConfigError(f"{where} {unknown[0]!r}, which is no weight that training changes")
    if delta.stacked != stacked:
        raise ConfigError(f"{where} one delta for a stack of clients; each needs its own")
    _require_shapes(where, delta, weights)
    return delta


def read_weights(algorithm: Algorithm, weight: Any, num_clients: int) -> list[float]:
    """Return the weight of each client's delta: [C]. They may be infinite or NaN.

    Raises:
        ConfigError: unless it is a number that is not negative, or one for each client of a stack.
    """
    where = f"algorithm {algorithm.name!r}: the weight of an update"
    if not isinstance(weight, Tensor | int | float):
        raise ConfigError(f"{where} is a {type(weight).__name__}; it must be a number or a tensor")
    if isinstance(weight, Tensor) and weight.dim():
        if weight.shape != (num_clients,):
            shape = list(weight.shape)
            raise ConfigError(f"{where} has shape {shape}; it must be one number for each client")
        weights: list[float] = weight.double().tolist()
    else:
        weights = [float(weight)] * num_clients
    if min(weights) < 0:
        raise ConfigError(f"{where} is {min(weights):g}, but must not be negative")
    return weights


def require_step(
    algorithm: Algorithm, returned: Any, weights: Vector | None = None
) -> tuple[Vector, State]:
    """Return what ``Algorithm.server`` has returned.

    Args:
        algorithm: the one that has.
        returned: what it is.
        weights: the server's, buffers included, to compare names and shapes; None: they are not.

    Raises:
        ConfigError: if it is not a Vector and a state, or the Vector does not fit the weights.
    """
    if (wrong := _types(returned, Vector, Mapping)) is not None:
        raise ConfigError(
            f"algorithm {algorithm.name!r}: server() returns {wrong}; it must return a Vector, "
            "which the server's Optimizer takes for a gradient, and a dict, its next state"
        )
    gradient, state = returned
    if weights is not None:
        where = f"algorithm {algorithm.name!r}: server() returns"
        if unknown := [name for name in gradient if name not in weights]:
            raise ConfigError(f"{where} {unknown[0]!r}, which is no weight of the server")
        _require_shapes(where, gradient, weights)
    return gradient, state


def require_sent(algorithm: Algorithm, sent: Any) -> State:
    """Return what ``Algorithm.send`` has returned.

    Raises:
        ConfigError: if it is not a dict of Vectors, tensors and numbers.
    """
    where = f"algorithm {algorithm.name!r}: send() returns"
    if not isinstance(sent, dict):
        raise ConfigError(f"{where} {type(sent).__name__}; it must return a dict")
    for key, value in sent.items():
        if not isinstance(value, Vector | Keyed | Tensor | int | float):
            raise ConfigError(
                f"{where} {key!r} of type {type(value).__name__}; it must be a Vector or a tensor"
            )
    return sent


def run_server(
    algorithm: Algorithm, total: Total, state: State, here: ServerSide, *, weights: Vector
) -> tuple[Vector, State]:
    """Return the gradient and the next state that the server's half makes of a total.

    Args:
        algorithm: whose half it is.
        total: of the cohort.
        state: the server's.
        here: what else it is given.
        weights: the server's, buffers included.

    Raises:
        AggregationError: if its code raises, with the line.
        ConfigError: as ``require_step``.
    """
    try:
        returned = algorithm.server(total, state, here)
    except SimflError:
        raise
    except Exception as error:
        says = one_line(f"{type(error).__name__}: {error}{own_line(error)}")
        where = f"algorithm {algorithm.name!r}: server() fails in round {here.round}"
        raise AggregationError(f"{where}: {says}") from error
    return require_step(algorithm, returned, weights)


def _require_shapes(where: str, vector: Vector, weights: Vector) -> None:
    for name, tensor in vector.items():
        shape, wanted = list(tensor.shape[vector.stacked :]), list(weights[name].shape)
        if shape != wanted:
            raise ConfigError(f"{where} {name!r} of shape {shape}; the weight's is {wanted}")


def _types(returned: Any, *expected: type) -> str | None:
    """Return the types of what was returned if it is no tuple of the expected ones."""
    if not isinstance(returned, tuple):
        return type(returned).__name__
    if len(returned) == len(expected) and all(map(isinstance, returned, expected)):
        return None
    return f"({', '.join(type(part).__name__ for part in returned)})"
