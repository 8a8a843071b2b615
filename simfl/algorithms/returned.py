"""Checks of what the two halves of an algorithm return, with errors that name the algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simfl.algorithms.algorithm import Algorithm, Update
from simfl.errors import ConfigError
from simfl.states import State
from simfl.vector import Vector


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


def require_step(algorithm: Algorithm, returned: Any) -> tuple[Vector, State]:
    """Return what ``Algorithm.server`` has returned.

    Raises:
        ConfigError: if it is not a Vector and a state.
    """
    if (wrong := _types(returned, Vector, Mapping)) is not None:
        raise ConfigError(
            f"algorithm {algorithm.name!r}: server() returns {wrong}; it must return a Vector, "
            "which the server's Optimizer takes for a gradient, and a dict, its next state"
        )
    gradient, state = returned
    return gradient, state


def _types(returned: Any, *expected: type) -> str | None:
    """Return the types of what was returned if it is no tuple of the expected ones."""
    if not isinstance(returned, tuple):
        return type(returned).__name__
    if len(returned) == len(expected) and all(map(isinstance, returned, expected)):
        return None
    return f"({', '.join(type(part).__name__ for part in returned)})"
