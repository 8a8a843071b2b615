"""What contract suites have in common: a contract is a list of clauses, each with its check."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import partial
from typing import Any, TypeVar

from torch import Tensor

from simfl.component import Component
from simfl.errors import ClientError, ContractError, own_line
from simfl.optimizer.trial import require
from simfl.vector import Vector

S = TypeVar("S")
C = TypeVar("C", bound=Component)


def check_clauses(
    component: Component, subject: S, clauses: Mapping[str, Callable[[S], None]]
) -> None:
    """Check what every component must do, then the clauses of this kind, in order.

    Args:
        component: the one that is checked.
        subject: the component and what it is checked on.
        clauses: what a component of this kind must do -> the check, which raises an exception.

    Raises:
        ContractError: naming the first clause that is broken, and how.
    """
    checks: dict[str, Callable[[], None]] = {
        "be a @dataclass(frozen=True) with a name": partial(_check_class, component),
        "have a config that goes through JSON": partial(_check_config, component),
        **{clause: partial(check, subject) for clause, check in clauses.items()},
    }
    for clause, check in checks.items():
        where = f"{type(component).__name__} must {clause}"
        try:
            check()
        except ContractError as broken:
            raise ContractError(f"{where}: {broken}") from None
        except Exception as error:
            is_client = isinstance(error, ClientError)
            says = str(error) if is_client else f"{type(error).__name__}: {error}"
            line = own_line((is_client and error.__cause__) or error)
            raise ContractError(f"{where}: {says}{line}") from error


def through_json(component: C) -> C:
    """Return the component that is built from this one's config as JSON."""
    return type(component).from_config(json.loads(json.dumps(component.get_config())))


def require_leaves(state: Any) -> None:
    """Require that a state is a dict of Vectors and tensors."""
    require(isinstance(state, dict), f"the state is of type {type(state).__name__}")
    for key, leaf in state.items():
        kind = type(leaf).__name__
        require(isinstance(leaf, Vector | Tensor), f"{key!r} in the state is of type {kind}")


def _check_class(component: Component) -> None:
    cls = type(component)
    # Fields are looked for in the class itself: a base that is a dataclass does not make it one.
    require(is_dataclass(cls) and "__dataclass_params__" in vars(cls), "it is no dataclass")
    require(getattr(cls, "__dataclass_params__").frozen, "it is not frozen")  # noqa: B009
    require(cls.registry.get(cls.name) is cls, f"the name {cls.name!r} is not this class's")


def _check_config(component: Component) -> None:
    again = through_json(component)
    require(again == component, f"{component} came back as {again}")
