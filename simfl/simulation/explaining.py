"""Exceptions of what is tried before a run, as errors at the key that causes them."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from simfl.algorithms import Algorithm, FedAvg, returned
from simfl.errors import ClientError, SimflError, one_line, own_line
from simfl.models import Loss
from simfl.scenario import Scenario
from simfl.transforms import UpdateTransform


@contextmanager
def explained(
    scenario: Scenario,
    key: str,
    what: str,
    remedy: str = "",
    *,
    otherwise: str = "choose a model and a loss that fit the data",
) -> Iterator[None]:
    """Turn any exception into a ScenarioError at this key, or at the loss that raised it.

    ``otherwise`` is the remedy of errors that say neither one nor where in the user's code they
    were raised.
    """
    try:
        yield
    except Exception as error:
        cause = error.__cause__ if isinstance(error, ClientError) and error.__cause__ else error
        is_own = isinstance(cause, SimflError)
        says = str(cause) if is_own else f"{type(cause).__name__}: {cause}"
        if is_own and cause.__cause__ is not None:
            cause = cause.__cause__
        hint = own_line(cause)
        if hint and one_line(says).endswith(hint):
            hint = ""
        if remedy:
            hint += f"; {remedy}"
        elif not hint and not is_own:
            hint = f"; {otherwise}"
        if key == "model":
            key = _raised_by(error)
        raise scenario.fault(key, f"{what}: {one_line(says)}{hint}") from cause


def _raised_by(error: BaseException) -> str:
    """Return the key of the innermost component whose code has raised an error or its cause."""
    found = "model"
    cause: BaseException | None = error
    while cause is not None:
        for frame, _ in traceback.walk_tb(cause.__traceback__):
            owner = frame.f_locals.get("self")
            if isinstance(owner, Loss):
                found = "model.loss"
            elif (
                isinstance(owner, Algorithm) and type(owner) is not FedAvg
            ) or frame.f_globals.get("__name__") == returned.__name__:
                found = "algorithm"
            elif isinstance(owner, UpdateTransform):
                found = "client.transforms"
            elif isinstance(owner, nn.Module) and found == "algorithm":
                found = "model"
        cause = cause.__cause__
    return found
