"""Trust: whether a scenario may have code of its author's imported and run."""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = ["Trust", "refusal"]

Trust: TypeAlias = Literal["all", "none"]
"""``all``: plug-ins and ``python`` components are imported, as the scenario says. ``none``: a
scenario that names any is refused, and no folder is added to where Python looks for modules."""


def refusal(what: str) -> str:
    """Say that something is refused because it would run code.

    >>> refusal("is 'python'")
    "is 'python', which runs code of the scenario's author, and trust is 'none'; leave it out, or \
see that the code is safe and trust it"
    """
    return (
        f"{what}, which runs code of the scenario's author, and trust is 'none'; "
        "leave it out, or see that the code is safe and trust it"
    )
