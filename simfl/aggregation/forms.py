"""The short forms of an aggregator's methods, for rules that neither keep nor announce anything."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, Final, TypeAlias

Method: TypeAlias = "Callable[..., Any]"


def lengthen(cls: type[Any]) -> None:
    """Have a class's short methods take all arguments, so that callers need not tell forms apart.

    Called once for each class. A lengthened method still works with the short form's arguments, as
    ``super().finish(total, weight)`` of a subclass.
    """
    if "finish_round" in vars(cls):
        setattr(cls, "finish", _from_finish_round(cls.finish_round))  # noqa: B010
    for name, (num_arguments, adapt) in _SHORT_FORMS.items():
        method = getattr(cls, name, None)
        if method is not None and _count_arguments(method) == num_arguments:
            setattr(cls, name, adapt(method))


def _without_last(method: Method) -> Method:
    """Lengthen (self, deltas, weights), by what is announced or by a context."""

    @wraps(method)
    def lengthened(self: Any, deltas: Any, weights: Any, _last: Any = None) -> Any:
        return method(self, deltas, weights)

    return lengthened


def _without_state(method: Method) -> Method:
    """Lengthen (self, total, weight) -> Vector."""

    @wraps(method)
    def lengthened(
        self: Any, total: Any, weight: float, state: Any = None, context: Any = None
    ) -> Any:
        delta = method(self, total, weight)
        return delta if context is None else (delta, state)

    return lengthened


def _from_finish_round(method: Method) -> Method:
    """Return ``finish`` by its predecessor, (self, total, weight, *, counts)."""

    @wraps(method)
    def finish(self: Any, total: Any, weight: float, state: Any = None, context: Any = None) -> Any:
        counts = () if context is None else context.counts
        delta = method(self, total, weight, counts=counts)
        return delta if context is None else (delta, state)

    return finish


_SHORT_FORMS: Final = {
    "lift": (3, _without_last),
    "lift_stack": (3, _without_last),
    "finish": (3, _without_state),
    "combine": (3, _without_last),
}
"""Method -> the number of arguments of its short form, self included, and what lengthens it."""


def _count_arguments(method: Method) -> int | None:
    """Return how many positional arguments a method takes; None: any number."""
    kinds = [
        parameter.kind
        for parameter in inspect.signature(method, follow_wrapped=False).parameters.values()
    ]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return None
    return sum(kind is not inspect.Parameter.KEYWORD_ONLY for kind in kinds)
