"""What the fuzz tests share: how files and trees of values are altered, and what must hold then."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any, Final, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from simfl.errors import ScenarioError, SimflError

T = TypeVar("T")

_ASKED: Final = os.environ.get("SIMFL_FUZZ")
_HANG_MS: Final = 60_000
"""For one example. Machines may be busy: this finds what never ends, and not what is slow."""


def fuzzed(examples: int) -> Callable[[T], T]:
    """Try so many examples, the same ones every time; or as many new ones as SIMFL_FUZZ says."""
    profile: Any = settings(
        max_examples=examples if _ASKED is None else int(_ASKED),
        derandomize=_ASKED is None,
        deadline=_HANG_MS,
        suppress_health_check=list(HealthCheck),
    )
    return profile  # type: ignore[no-any-return]


def require_clear(error: SimflError) -> None:
    """See that an error is a line for each fault, which a terminal shows as it is."""
    lines = error.faults if isinstance(error, ScenarioError) else [str(error)]
    assert lines
    for line in lines:
        assert line.isprintable(), repr(line)
        assert line.strip()


# -- bytes ---------------------------------------------------------------------------------


@st.composite
def altered(draw: st.DrawFn, data: bytes, words: tuple[bytes, ...] = ()) -> bytes:
    """Return a file's bytes with one to four faults in them."""
    for _ in range(draw(st.integers(1, 4))):
        data = draw(_altered_once(data, words))
    return data


@st.composite
def _altered_once(draw: st.DrawFn, data: bytes, words: tuple[bytes, ...]) -> bytes:
    at = draw(st.integers(0, max(len(data) - 1, 0)))
    length = draw(st.sampled_from([1, 1, 2, 4, 8, 64, 1000]))
    before, middle, after = data[:at], data[at : at + length], data[at + length :]
    pieces = st.binary(max_size=8) if not words else st.sampled_from(words) | st.binary(max_size=8)
    match draw(st.integers(0, 7)):
        case 0:
            return before
        case 1:
            return before + after
        case 2:
            return before + middle + middle + after
        case 3:
            return before + draw(pieces) + middle + after
        case 4:
            return before + draw(pieces) + after
        case 5:
            return (
                before
                + bytes(byte ^ 1 << draw(st.integers(0, 7)) for byte in middle[:1])
                + (middle[1:] + after)
            )
        case 6:
            return after + before + middle
        case _:
            return data + draw(pieces)


# -- trees of plain values -------------------------------------------------------------------

NASTY: Final = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    7,
    2**31,
    2**53 + 1,
    2**63,
    -(2**63) - 1,
    10**400,
    0.0,
    -0.0,
    0.5,
    -1.5,
    1e-320,
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "a",
    "auto",
    "null",
    "1",
    "kind",
    "a\nb",
    "\x1b[31mred",
    "\u202egpj",
    "\ud800",
    "a\0b",
    "ß" * 300,
    "x" * 5000,
    "../..",
    "/",
    "%s{0}",
    "<script>alert(1)</script>",
    "[bold]",
    (),
    [],
    {},
    [[]],
    [None],
    ["adam"],
    ["fedprox", {"alpha": 0.1}],
    [["momentum", {"beta": 2}], "momentum"],
    {"kind": "adam"},
    {"kind": None},
    {1: 2},
    {None: {}},
    {"": ""},
)


@st.composite
def altered_tree(draw: st.DrawFn, tree: Any, values: tuple[Any, ...] = NASTY) -> Any:
    """Return plain data with one to three faults in them."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        tree = draw(_altered_tree_once(tree, values))
    return tree


@st.composite
def _altered_tree_once(draw: st.DrawFn, tree: Any, values: tuple[Any, ...]) -> Any:
    places = list(_places(tree))
    if not places:
        return copy.deepcopy(draw(st.sampled_from(values)))
    holder, key = draw(st.sampled_from(places))
    value = copy.deepcopy(draw(st.sampled_from(values)))
    match draw(st.integers(0, 5)):
        case 0 | 1 | 2:
            holder[key] = value
        case 3:
            del holder[key]
        case 4:
            other, there = draw(st.sampled_from(places))
            holder[key], other[there] = copy.deepcopy(other[there]), copy.deepcopy(holder[key])
        case _ if isinstance(holder, dict):
            words = st.sampled_from(["extra", "", "kind", "steps", "path", "alpha", 3, None, "a\0"])
            holder[draw(words)] = value
        case _:
            holder.insert(key, value)
    return tree


def _places(tree: Any) -> Any:
    if isinstance(tree, dict):
        items = list(tree.items())
    elif isinstance(tree, list):
        items = list(enumerate(tree))
    else:
        return
    for key, value in items:
        yield tree, key
        yield from _places(value)
